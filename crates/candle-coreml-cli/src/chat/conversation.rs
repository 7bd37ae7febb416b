//! Chat messages, and the file written by `/save`: JSON with `version` 1 and `messages`, each with `role` and
//! `content`; a system message comes first.

use std::io::Write;
use std::path::Path;

use candle_coreml::format::file;
use candle_coreml::generation::Message;
use serde::{Deserialize, Serialize};

/// Maximum file size.
const LIMIT: u64 = 16 << 20;

/// Messages in order.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Conversation {
    messages: Vec<Message>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    messages: Vec<Message>,
}

impl Conversation {
    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    pub(super) fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    pub(super) fn pop(&mut self) {
        self.messages.pop();
    }

    /// The system message.
    pub(super) fn system(&self) -> Option<&str> {
        self.messages.first().filter(|m| m.role == "system").map(|m| m.content.as_str())
    }

    /// Sets or removes the system message.
    pub(super) fn set_system(&mut self, text: Option<String>) {
        let old = usize::from(self.system().is_some());
        let new = text.map(Message::system);
        self.messages.splice(..old, new);
    }

    /// Removes all messages except the system message.
    pub(super) fn reset(&mut self) {
        self.messages.truncate(usize::from(self.system().is_some()));
    }

    /// Reads a conversation.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let fail = |e: String| format!("{}: {e}", path.display());
        let text = file::read_text(path, LIMIT).map_err(|e| e.to_string())?;
        let saved: Saved = serde_json::from_str(&text).map_err(|e| fail(format!("no conversation: {e}")))?;
        if saved.version != 1 {
            return Err(fail(format!("version {}: expected 1", saved.version)));
        }
        for (i, message) in saved.messages.iter().enumerate() {
            let known = matches!(message.role.as_str(), "user" | "assistant") || (i == 0 && message.role == "system");
            if !known {
                return Err(fail(format!("message {i} has the role `{}`: expected user or assistant", message.role)));
            }
        }
        Ok(Self { messages: saved.messages })
    }

    /// Writes the conversation atomically, readable by the owner only. Refuses to overwrite a file that is not a
    /// conversation.
    pub(super) fn save(&self, path: &Path) -> Result<(), String> {
        let fail = |e: String| format!("{}: {e}", path.display());
        if path.exists() {
            Self::load(path).map_err(|e| format!("not overwritten: {e}"))?;
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let saved = Saved { version: 1, messages: self.messages.clone() };
        let text = serde_json::to_string_pretty(&saved).map_err(|e| fail(e.to_string()))?;
        // Temporary files are created readable by the owner only.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| fail(e.to_string()))?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(|e| fail(e.to_string()))?;
        file.persist(path).map(|_| ()).map_err(|e| fail(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_message_is_first_and_stays() {
        let mut c = Conversation::default();
        c.push(Message::user("a"));
        c.set_system(Some("one".to_owned()));
        c.set_system(Some("two".to_owned()));
        assert_eq!((c.system(), c.messages().len()), (Some("two"), 2));
        c.reset();
        assert_eq!((c.system(), c.messages().len()), (Some("two"), 1));
        c.set_system(None);
        c.set_system(None);
        assert!(c.messages().is_empty());
    }

    #[test]
    fn files_come_back_and_others_are_neither_read_nor_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.json");
        let mut c = Conversation::default();
        c.push(Message::user("é \"x\"\n"));
        c.save(&path).expect("written");
        c.push(Message::assistant("y"));
        c.save(&path).expect("written again");
        assert_eq!(Conversation::load(&path).expect("read"), c);
        for (text, part) in [
            ("", "no conversation"),
            ("{\"version\": 2, \"messages\": []}", "version 2"),
            ("{\"version\": 1, \"messages\": [{\"role\": \"root\", \"content\": \"\"}]}", "root"),
            ("my diary", "no conversation"),
        ] {
            let other = folder.path().join("other");
            std::fs::write(&other, text).expect("written");
            assert!(Conversation::load(&other).expect_err("refused").contains(part), "{text}");
            assert!(c.save(&other).expect_err("refused").contains("not overwritten"), "{text}");
            assert_eq!(std::fs::read_to_string(&other).expect("read"), text);
        }
        assert!(Conversation::load(&folder.path().join("none")).is_err());
    }
}
