//! URL operations of the clients: escaping, resolving redirects, comparing origins (RFC 3986).

// Only the hub uses all of them.
#![cfg_attr(not(feature = "hub"), allow(dead_code))]

use ureq::http::Uri;

/// Percent-encodes a path for a URL; keeps `/` if `slashes`.
pub(crate) fn escape(text: &str, slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (slashes && byte == b'/');
        if plain { out.push(byte as char) } else { out.push_str(&format!("%{byte:02X}")) }
    }
    out
}

/// Scheme, host and port of an `http` or `https` URL; `None` for anything else.
pub(crate) fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let host = uri.host().filter(|h| !h.is_empty())?.to_ascii_lowercase();
    // User info in URLs can disguise the host; the hub uses none.
    if uri.authority()?.as_str().contains('@') {
        return None;
    }
    Some((scheme, host, uri.port_u16().unwrap_or(port)))
}

/// Resolves `location` in a response from `base`; `None` if it is not `http(s)`.
pub(crate) fn resolve(base: &str, location: &str) -> Option<String> {
    let uri: Uri = base.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?.as_str());
    let location = location.split('#').next().unwrap_or_default();
    let resolved = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    origin(&resolved)?;
    Some(resolved)
}

/// The target of `rel="next"` in a `Link` header (RFC 8288).
pub(crate) fn next_link(header: &str) -> Option<&str> {
    // A `,` inside `<…>` is not a separator: split where a new `<` begins.
    header.split('<').skip(1).find_map(|link| {
        let (target, parameters) = link.split_once('>')?;
        let next = parameters.split([';', ',']).any(|p| {
            p.trim().strip_prefix("rel=").is_some_and(|v| v.trim_matches('"').split(' ').any(|r| r == "next"))
        });
        next.then_some(target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved() {
        let base = "https://hub.test:8443/a/b/c?x=1";
        for (location, expected) in [
            ("https://cdn.test/f?s=1#part", Some("https://cdn.test/f?s=1")),
            ("//cdn.test/f", Some("https://cdn.test/f")),
            ("/f", Some("https://hub.test:8443/f")),
            ("f", Some("https://hub.test:8443/a/b/f")),
            ("ftp://cdn.test/f", None),
            ("file:///etc/passwd", None),
            ("https://hub.test@evil.test/f", None),
            ("https://", None),
        ] {
            assert_eq!(resolve(base, location).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn origins_compare_scheme_host_and_port() {
        assert_eq!(origin("https://Hub.test/a"), origin("https://hub.test:443/b"));
        assert_ne!(origin("https://hub.test"), origin("http://hub.test"));
        assert_ne!(origin("http://hub.test:1"), origin("http://hub.test:2"));
        assert_eq!(origin("hub.test"), None);
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        assert_eq!(next_link("<https://a/?c=1,2>; rel=\"next\""), Some("https://a/?c=1,2"));
        assert_eq!(next_link("<u>; rel=prev, <v>; title=\"x\"; rel=\"next\""), Some("v"));
        assert_eq!(next_link("<u>; rel=\"prev\""), None);
        assert_eq!(next_link("nonsense"), None);
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escape("a b/ü?#%.json", true), "a%20b/%C3%BC%3F%23%25.json");
        assert_eq!(escape("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
