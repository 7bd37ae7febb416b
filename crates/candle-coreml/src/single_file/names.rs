//! Names of inputs, outputs and states, as exporters write them: `inputIds`, `input_ids`, `InputIDs`.

/// What an input is by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Tokens,
    /// A mask of scores, or of tokens.
    Mask,
    /// Position of each token, or of the first one.
    Positions,
    /// Position of the first token: where the caches are written.
    Start,
    /// One where the caches are written.
    Update,
    Cache,
}

const NAMES: [(Named, &[&str]); 5] = [
    (Named::Tokens, &["inputids", "inputid", "tokenids", "tokenid", "tokens", "inputtokens", "inputtokenids", "ids"]),
    (Named::Mask, &["causalmask", "attentionmask", "attnmask", "causalattentionmask", "attentionbias", "mask"]),
    (Named::Positions, &["positionids", "positions", "cachepositions", "inputpositions", "tokenpositions"]),
    (
        Named::Start,
        &[
            "writepos",
            "writeposition",
            "currentpos",
            "currentposition",
            "startpos",
            "startposition",
            "inputpos",
            "inputposition",
            "cachepos",
            "cacheposition",
            "cachelength",
            "pastlength",
            "pos",
            "position",
        ],
    ),
    (Named::Update, &["updatemask", "kvcacheupdatemask", "cacheupdatemask"]),
];

/// Lower case, letters and digits only.
pub(super) fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// What an input or a state with this name is.
pub(super) fn named(name: &str) -> Option<Named> {
    let plain = plain(name);
    let known = NAMES.iter().find(|(_, names)| names.contains(&plain.as_str()));
    known.map(|(named, _)| *named).or_else(|| is_cache(&plain).then_some(Named::Cache))
}

/// Whether a plain name says keys or values that are kept.
fn is_cache(plain: &str) -> bool {
    let kept = plain.contains("cache") || plain.contains("past") || plain.contains("present");
    let what = ["key", "value", "kv"].iter().any(|w| plain.contains(w));
    let letters = plain.trim_end_matches(|c: char| c.is_ascii_digit());
    kept && what
        || ["kcache", "vcache", "cachek", "cachev", "key", "value", "keys", "values", "pastk", "pastv"]
            .contains(&letters)
}

/// A cache's name without the words that tell what goes in from what comes out.
fn pair_key(name: &str) -> String {
    let mut key = String::new();
    // Words of camelCase, snake_case and digits.
    let mut words: Vec<String> = Vec::new();
    let mut previous = ' ';
    for c in name.chars() {
        if !c.is_ascii_alphanumeric() {
            previous = ' ';
            continue;
        }
        let begins = previous == ' '
            || c.is_ascii_uppercase() && !previous.is_ascii_uppercase()
            || c.is_ascii_digit() != previous.is_ascii_digit();
        match words.last_mut().filter(|_| !begins) {
            Some(word) => word.push(c.to_ascii_lowercase()),
            None => words.push(c.to_ascii_lowercase().to_string()),
        }
        previous = c;
    }
    for word in words {
        if !["new", "out", "output", "in", "input", "updated", "update", "next", "past", "present"]
            .contains(&word.as_str())
        {
            key.push_str(&word);
        }
    }
    // `past_key_values_0_key` comes out as `present_0_key`.
    key.strip_prefix("keyvalues").map_or(key.clone(), str::to_owned)
}

/// The output that holds what a cache becomes, if the names say so.
pub(super) fn pair<'o>(input: &str, outputs: &[&'o str]) -> Option<&'o str> {
    let key = pair_key(input);
    let mut fitting = outputs.iter().filter(|output| pair_key(output) == key);
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// Whether an output's name says logits.
pub(super) fn says_logits(name: &str) -> bool {
    plain(name).contains("logit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_exporters_are_known_and_others_are_not() {
        for (name, wanted) in [
            ("inputIds", Some(Named::Tokens)),
            ("input_ids", Some(Named::Tokens)),
            ("causalMask", Some(Named::Mask)),
            ("attention_mask", Some(Named::Mask)),
            ("writePos", Some(Named::Start)),
            ("cache_position", Some(Named::Start)),
            ("positionIds", Some(Named::Positions)),
            ("keyCache", Some(Named::Cache)),
            ("valueCache11", Some(Named::Cache)),
            ("k_cache_3", Some(Named::Cache)),
            ("past_key_values_0_key", Some(Named::Cache)),
            ("kvCache", Some(Named::Cache)),
            ("encoder_output_embeds", None),
            ("conv_state_0", None),
            ("keyboard", None),
        ] {
            assert_eq!(named(name), wanted, "{name}");
        }
    }

    #[test]
    fn caches_that_go_in_and_come_out_pair_by_name() {
        for (input, outputs, wanted) in [
            ("keyCache", &["logits", "newKeyCache", "newValueCache"][..], Some("newKeyCache")),
            ("valueCache", &["keyCacheOut", "valueCacheOut"], Some("valueCacheOut")),
            ("k_cache_10", &["new_k_cache_1", "new_k_cache_10"], Some("new_k_cache_10")),
            ("past_key_values_0_key", &["present_0_value", "present_0_key"], Some("present_0_key")),
            ("keyCacheIn", &["keyCacheOut"], Some("keyCacheOut")),
            ("keyCache", &["var_100", "var_101"], None),
            ("keyCache", &["keyCacheOut", "newKeyCache"], None),
        ] {
            assert_eq!(pair(input, outputs), wanted, "{input}");
        }
    }
}
