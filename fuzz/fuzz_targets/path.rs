//! A request target becomes a canonical path or is refused: without panic, and canonical means canonical.
#![no_main]

use http::Uri;
use libfuzzer_sys::fuzz_target;
use postern::access::path::CanonicalPath;

fuzz_target!(|target: &[u8]| {
    let Ok(uri) = Uri::try_from(target) else { return };
    let Ok(path) = CanonicalPath::of(&uri) else { return };
    let text = path.as_str();
    assert!(text.starts_with('/') && text.is_ascii());
    let lower = text.to_ascii_lowercase();
    for bad in ["//", "/./", "/../", "\\", ";", "?", "#", "%2e", "%5c", "%3b", "%3f", "%23", "%00"] {
        assert!(!lower.contains(bad), "{bad} in {text}");
    }
    assert!(!text.ends_with("/.") && !text.ends_with("/.."));
    assert_eq!(path.has_encoded_slash(), lower.contains("%2f"));

    let again = CanonicalPath::parse(text).expect("a canonical path is good");
    assert_eq!(again.as_str(), text);
});
