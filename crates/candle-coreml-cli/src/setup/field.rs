//! Single-line text editor.

/// Maximum number of characters: longer than any sensible key or path.
const LONGEST: usize = 4096;

/// Text with a cursor.
#[derive(Debug, Default, Clone)]
pub(super) struct Field {
    text: Vec<char>,
    cursor: usize,
}

impl Field {
    /// A field with initial text.
    #[cfg(test)]
    pub(super) fn new(text: &str) -> Self {
        let text: Vec<char> = text.chars().take(LONGEST).collect();
        Self { cursor: text.len(), text }
    }

    pub(super) fn text(&self) -> String {
        self.text.iter().collect()
    }

    /// The characters and the cursor position.
    pub(super) fn parts(&self) -> (&[char], usize) {
        (&self.text, self.cursor)
    }

    /// Inserts text at the cursor, dropping control characters.
    pub(super) fn insert(&mut self, text: &str) {
        for c in text.chars().filter(|c| !c.is_control()) {
            if self.text.len() < LONGEST {
                self.text.insert(self.cursor, c);
                self.cursor += 1;
            }
        }
    }

    pub(super) fn backspace(&mut self) {
        if self.cursor > 0 {
            self.cursor -= 1;
            self.text.remove(self.cursor);
        }
    }

    pub(super) fn delete(&mut self) {
        if self.cursor < self.text.len() {
            self.text.remove(self.cursor);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn left(&mut self) {
        self.cursor = self.cursor.saturating_sub(1);
    }

    pub(super) fn right(&mut self) {
        self.cursor = (self.cursor + 1).min(self.text.len());
    }

    pub(super) fn home(&mut self) {
        self.cursor = 0;
    }

    pub(super) fn end(&mut self) {
        self.cursor = self.text.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_edited_by_characters_and_never_leaves_its_line() {
        let mut f = Field::new("aé");
        f.backspace();
        f.backspace();
        f.backspace();
        f.delete();
        f.insert("x\ny\u{1b}[Az");
        assert_eq!(f.text(), "xy[Az");
        f.home();
        f.left();
        f.delete();
        f.right();
        f.insert("é");
        assert_eq!((f.text().as_str(), f.parts().1), ("yé[Az", 2));
        f.end();
        f.right();
        f.backspace();
        assert_eq!(f.text(), "yé[A");
        f.insert(&"x".repeat(10_000));
        assert_eq!(f.parts().0.len(), LONGEST);
        f.clear();
        assert_eq!((f.text().as_str(), f.parts().1), ("", 0));
    }
}
