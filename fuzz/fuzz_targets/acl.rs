//! Routes and roles against a request: lines are `path permissions own`, the last line is the target. The decision must
//! not depend on how the target's path is written, and nothing is granted that no role holds.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use postern::access::acl::RoleSettings;
use postern::access::body::BodyRules;
use postern::access::path::CanonicalPath;
use postern::access::policy::{Caller, Policy, Question};
use postern::access::routes::{
    Own, Place, RouteSettings, Rule, Target, UpstreamId, WebSocketMode, check_path, check_strip_prefix,
    has_placeholder,
};
use postern::identity::{RoleName, UserName};
use postern::permission::Permission;
use std::sync::Arc;

fuzz_target!(|data: &str| {
    let mut lines: Vec<&str> = data.lines().take(17).collect();
    let Some(target) = lines.pop() else { return };
    let routes: Vec<_> = lines.iter().enumerate().filter_map(|(n, line)| route(n, line)).collect();
    let allow: Vec<_> =
        lines.iter().enumerate().map(|(n, line)| (n.to_string(), permissions(line))).collect();
    let name = RoleName::new("role");
    let roles =
        [RoleSettings { name: name.clone(), number: None, inherits: Vec::new(), allow: allow.clone() }];
    let policy = Policy::new(&routes, &roles, false);
    let Ok(path) = CanonicalPath::parse(target) else { return };

    let user = UserName::new("own@d.test");
    let judge = |path: &CanonicalPath, role: &RoleName| {
        let question = Question { path, method: &Method::GET, query: None };
        let judged = policy.judge(question, Caller { user: Some(&user), ..Caller::of_role(role) });
        judged.map(|(route, grant)| (route.place.line, grant)).map_err(|denied| denied.reason)
    };
    let decision = judge(&path, &name);
    if let Ok((line, grant)) = &decision {
        let asked = grant.asked.expect("every route here asks for a permission");
        let held = &allow[*line].1;
        assert!(held.contains(&asked) || held.contains(&Permission::All));
    }
    let other = CanonicalPath::parse(&format!("{}/", path.as_str().to_ascii_uppercase()));
    // The user's name has a letter case, so only its capture may tell the two apart.
    if let Ok(other) = other
        && !lines.iter().any(|line| line.contains("{user}"))
    {
        assert_eq!(judge(&other, &name), decision);
    }
    assert!(judge(&path, &RoleName::new("nobody")).is_err());
});

fn permissions(line: &str) -> Vec<Permission> {
    line.split(' ').nth(1).unwrap_or_default().split(',').filter_map(Permission::parse).collect()
}

fn route(n: usize, line: &str) -> Option<RouteSettings> {
    let mut words = line.split(' ');
    let path = words.next()?;
    let own = match words.nth(1) {
        Some("domain") => Own::Domain,
        Some("fallback") => Own::Fallback,
        Some("caller") if has_placeholder(path, "user") => Own::UserCaller,
        _ => Own::Never,
    };
    check_path(path).ok()?;
    check_strip_prefix(path, path).expect("a path begins with itself");
    Some(RouteSettings {
        path: path.to_owned(),
        methods: None,
        query: Vec::new(),
        rule: Rule::Resource { name: n.to_string(), permission: None, own },
        strip_prefix: String::new(),
        websocket: WebSocketMode::Credentials,
        encoded_slash: false,
        body: BodyRules::default(),
        target: Target::Upstream(UpstreamId(0)),
        place: Place { file: Arc::from("fuzz"), line: n },
    })
}
