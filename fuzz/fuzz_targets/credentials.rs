//! Header values and a query (lines of the input; the last is the query) become credentials or are ambiguous. What is
//! left of a query holds none.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use postern::access::credentials::{CredentialNames, Presented, without};

fuzz_target!(|data: &[u8]| {
    let names = CredentialNames::default();
    let mut lines: Vec<&[u8]> = data.split(|b| *b == b'\n').collect();
    let query = lines.pop().and_then(|q| std::str::from_utf8(q).ok());
    let mut headers = HeaderMap::new();
    for (n, line) in lines.iter().take(4).enumerate() {
        let name = HeaderName::from_static(if n % 2 == 0 { "x-access-token" } else { "x-key" });
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    if let Ok(presented) = Presented::read(&headers, query, &names) {
        for credential in [presented.token, presented.key].into_iter().flatten() {
            let text = credential.text();
            assert!(text.is_none_or(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic())));
            assert_eq!(credential.to_header().is_some(), text.is_some());
        }
    }
    let Some(query) = query else { return };
    let rest = without(query, &names);
    assert!(rest.len() <= query.len());
    let none = HeaderMap::new();
    let again = Presented::read(&none, Some(&rest), &names).expect("nothing ambiguous is left");
    assert!(again.token.is_none() && again.key.is_none());
    assert_eq!(without(&rest, &names), rest);
});
