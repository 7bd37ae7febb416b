//! Parses a chat line: a slash command or a message.

use std::path::PathBuf;

/// A parsed line.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    /// An empty line.
    Empty,
    /// A message to answer.
    Message(String),
    /// `/help`
    Help,
    /// `/reset`
    Reset,
    /// `/system [TEXT|none]`: shows, sets or removes the system message.
    System(Option<String>),
    /// `/stats`
    Stats,
    /// `/save FILE`
    Save(PathBuf),
    /// `/load FILE`
    Load(PathBuf),
    /// `/think on|off|auto`
    Think(Option<bool>),
    /// `/model [NAME|DIR|auto]`: shows the model, or switches to another.
    Model(Option<PathBuf>),
    /// `/remote [on|off]`: turns the remote model on or off; without an argument, shows its state.
    Remote(Option<bool>),
    /// `/set [NAME VALUE]`: shows or changes how tokens are chosen.
    Set(Option<(String, String)>),
    /// `/quit`
    Quit,
}

/// Commands and their descriptions.
pub(super) const HELP: [(&str, &str); 12] = [
    ("/help", "shows this"),
    ("/reset", "forgets the conversation; the system message stays"),
    ("/system [TEXT|none]", "shows, sets or removes the system message"),
    ("/stats", "shows speed, prompt tokens that were run, use of the context"),
    ("/save FILE", "writes the conversation"),
    ("/load FILE", "goes on with a conversation that was written"),
    ("/think on|off|auto", "sets the thinking mode of the model"),
    ("/model [NAME]", "shows the model, or goes on with another: a folder, a name of the hub, auto"),
    ("/remote [on|off]", "asks the remote model of the settings from now on, or this machine again"),
    ("/set [NAME VALUE]", "shows or sets temperature, top_k, top_p, min_p, repetition_penalty, seed, max_tokens"),
    ("\"\"\"", "begins and ends a message of several lines"),
    ("/quit", "leaves, as Ctrl-D does; Ctrl-C stops an answer"),
];

/// The names of [`HELP`] without arguments.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    HELP.iter().map(|(usage, _)| usage.split(' ').next().unwrap_or(usage))
}

fn file(name: &str, rest: &str) -> Result<PathBuf, String> {
    if rest.is_empty() { Err(format!("{name} needs the name of a file")) } else { Ok(rest.into()) }
}

/// Parses a line. A leading double slash escapes a message that starts with a slash.
pub(super) fn parse(line: &str) -> Result<Request, String> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(Request::Empty);
    }
    if let Some(escaped) = line.strip_prefix("//") {
        return Ok(Request::Message(format!("/{escaped}")));
    }
    if !line.starts_with('/') {
        return Ok(Request::Message(line.to_owned()));
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let alone = |request: Request| match rest {
        "" => Ok(request),
        _ => Err(format!("{name} takes nothing, found `{rest}`")),
    };
    match name {
        "/help" | "/?" => alone(Request::Help),
        "/reset" | "/clear" => alone(Request::Reset),
        "/stats" => alone(Request::Stats),
        "/quit" | "/exit" | "/bye" => alone(Request::Quit),
        "/system" => Ok(Request::System((!rest.is_empty()).then(|| rest.to_owned()))),
        "/model" => Ok(Request::Model((!rest.is_empty()).then(|| rest.into()))),
        "/remote" => match rest {
            "on" => Ok(Request::Remote(Some(true))),
            "off" => Ok(Request::Remote(Some(false))),
            "" => Ok(Request::Remote(None)),
            other => Err(format!("/remote takes on or off, found `{other}`")),
        },
        "/set" => match rest.split_once(char::is_whitespace) {
            // As ollama spells it.
            Some(("parameter", rest)) => match rest.trim().split_once(char::is_whitespace) {
                Some((name, value)) => Ok(Request::Set(Some((name.to_owned(), value.trim().to_owned())))),
                None => Err("/set needs a name and a value".to_owned()),
            },
            Some((name, value)) => Ok(Request::Set(Some((name.to_owned(), value.trim().to_owned())))),
            None if rest.is_empty() => Ok(Request::Set(None)),
            None => Err("/set needs a name and a value".to_owned()),
        },
        "/save" => file(name, rest).map(Request::Save),
        "/load" => file(name, rest).map(Request::Load),
        "/think" => match rest {
            "on" => Ok(Request::Think(Some(true))),
            "off" => Ok(Request::Think(Some(false))),
            "auto" => Ok(Request::Think(None)),
            other => Err(format!("/think takes on, off or auto, found `{other}`")),
        },
        unknown => {
            let near =
                names().max_by(|a, b| strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown)));
            let near = near.filter(|n| strsim::jaro_winkler(n, unknown) > 0.8);
            let hint = near.map_or_else(|| "/help lists the commands".to_owned(), |n| format!("did you mean {n}?"));
            Err(format!("unknown command {unknown}; {hint}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        for (line, request) in [
            ("", Request::Empty),
            ("  \t", Request::Empty),
            (" hello / there ", Request::Message("hello / there".to_owned())),
            ("//etc is a folder", Request::Message("/etc is a folder".to_owned())),
            ("/help", Request::Help),
            ("/reset", Request::Reset),
            ("/quit", Request::Quit),
            ("/bye", Request::Quit),
            ("/set", Request::Set(None)),
            ("/set top_k  5", Request::Set(Some(("top_k".to_owned(), "5".to_owned())))),
            ("/set parameter seed 1", Request::Set(Some(("seed".to_owned(), "1".to_owned())))),
            ("/system", Request::System(None)),
            ("/system  Be brief. ", Request::System(Some("Be brief.".to_owned()))),
            ("/save my file.json", Request::Save("my file.json".into())),
            ("/think off", Request::Think(Some(false))),
            ("/think auto", Request::Think(None)),
            ("/model", Request::Model(None)),
            ("/model my models/x", Request::Model(Some("my models/x".into()))),
            ("/remote", Request::Remote(None)),
            ("/remote off", Request::Remote(Some(false))),
        ] {
            assert_eq!(parse(line), Ok(request), "{line}");
        }
    }

    #[test]
    fn wrong_commands_say_what_would_be_right() {
        for (line, part) in [
            ("/hlep", "/help?"),
            ("/sav x", "/save?"),
            ("/", "/help lists"),
            ("/xyzzy", "/help lists"),
            ("/save", "name of a file"),
            ("/think maybe", "on, off or auto"),
            ("/think", "on, off or auto"),
            ("/quit now", "takes nothing"),
            ("/set top_k", "a name and a value"),
            ("/remote please", "on or off"),
            ("/modle x", "/model?"),
        ] {
            let message = parse(line).expect_err(line);
            assert!(message.contains(part), "{line}: {message}");
        }
    }
}
