//! What an ingress tells an authorizer (lines of the input: the target of the asking request, its method, then the six
//! headers of the conventions) is a request that every header agrees with, or none.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use libfuzzer_sys::fuzz_target;
use postern::access::path::CanonicalPath;
use postern::gateway::authorizer::Convention;
use postern::gateway::authorizer::convention::read;

const TARGETS: [&str; 3] = ["x-original-url", "x-original-uri", "x-forwarded-uri"];
const METHODS: [&str; 2] = ["x-original-method", "x-forwarded-method"];

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|b| *b == b'\n');
    let target = lines.next().unwrap_or_default();
    let Ok(uri) = Uri::try_from([b"/auth", target].concat()) else { return };
    let Ok(method) = Method::from_bytes(lines.next().unwrap_or_default()) else { return };
    let names = TARGETS.iter().chain(&METHODS).chain(&["x-forwarded-host"]);
    let mut headers = HeaderMap::new();
    for (name, line) in names.zip(lines) {
        // An empty line: the header is not there.
        if let Some(value) = HeaderValue::from_bytes(line).ok().filter(|_| !line.is_empty()) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    for convention in Convention::ALL {
        let Ok(original) = read(convention, &method, &uri, &headers) else { continue };
        let told = original.target.path_and_query().expect("a path").as_str();
        assert!(told.starts_with('/'));
        if convention == Convention::Any {
            // Whoever tells something else than what was read would be a hole.
            for value in TARGETS.iter().filter_map(|name| headers.get(*name)) {
                let said = value.as_bytes().split(|b| *b == b'#').next().unwrap_or_default();
                assert!(said.ends_with(told.as_bytes()), "{value:?} against {told}");
            }
            for value in METHODS.iter().filter_map(|name| headers.get(*name)) {
                assert_eq!(value.as_bytes(), original.method.as_str().as_bytes());
            }
        }
        let _ = CanonicalPath::of(&original.target);
    }
});
