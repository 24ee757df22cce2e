//! The paths that the gateway answers itself: matched like all others (contract section 3), by themselves or below the
//! prefixes of `[login] below`.

use super::path::{CanonicalPath, inner};

/// What the gateway answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnPath {
    Login,
    Logout,
}

impl OwnPath {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "/login",
            Self::Logout => "/logout",
        }
    }
}

impl CanonicalPath {
    /// Which of the gateway's own paths this is, by itself or below one of these prefixes.
    #[must_use]
    pub fn own(&self, case_sensitive: bool, below: &[String]) -> Option<OwnPath> {
        let (path, own) = (self.inner(), [OwnPath::Login, OwnPath::Logout]);
        let same = |a: &str, b: &str| if case_sensitive { a == b } else { a.eq_ignore_ascii_case(b) };
        own.into_iter().find(|own| {
            let own = inner(own.as_str());
            let prefix = path.len().checked_sub(own.len()).and_then(|at| path.split_at_checked(at));
            prefix.is_some_and(|(prefix, rest)| {
                let is_below =
                    |known: &String| prefix.strip_suffix('/').is_some_and(|p| same(p, inner(known)));
                same(rest, own) && (prefix.is_empty() || below.iter().any(is_below))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_without_regard_to_case_and_a_trailing_slash() {
        for path in [
            "/login",
            "/LOGIN",
            "/login/",
            "//login",
            "/%6cogin",
            "/x/../Login",
            "/./login",
            "/login?x",
            "/login//",
        ] {
            assert!(
                CanonicalPath::of(&path.parse().unwrap()).unwrap().own(false, &[]) == Some(OwnPath::Login),
                "{path}"
            );
        }
        for path in ["/loginx", "/login/x", "/", "/login%20", "/login%2F"] {
            assert!(CanonicalPath::of(&path.parse().unwrap()).unwrap().own(false, &[]).is_none(), "{path}");
        }
        let login = CanonicalPath::parse("/Login/").unwrap();
        assert!(login.own(false, &[]) == Some(OwnPath::Login) && login.own(true, &[]).is_none());
    }

    #[test]
    fn own_paths_are_below_the_prefixes_that_are_named_too() {
        let below = ["/engine".to_owned(), "/a/b".to_owned()];
        let own = |path: &str| CanonicalPath::of(&path.parse().unwrap()).unwrap().own(false, &below);
        for path in ["/login", "/engine/login", "/Engine/LOGIN/", "/a/b/login"] {
            assert_eq!(own(path), Some(OwnPath::Login), "{path}");
        }
        assert_eq!(own("/engine//logout"), Some(OwnPath::Logout));
        for path in [
            "/enginelogin",
            "/engine/x/login",
            "/b/login",
            "/engine",
            "/a/login",
            "/xengine/login",
            "/engine/login/x",
        ] {
            assert_eq!(own(path), None, "{path}");
        }
    }
}
