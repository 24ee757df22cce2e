//! `[[routes]]`: what is asked where, and where it goes.

use super::findings::{Findings, hint};
use super::front;
use super::table::Table;
use crate::access::body::{BodyRules, FieldRule};
use crate::access::route_tree;
use crate::access::routes::{self, Own, RouteSettings, Rule, Target, UpstreamId, WebSocketMode};
use crate::permission::Permission;
use crate::upstream::UpstreamSettings;

/// In the order of the files.
pub(super) fn routes(
    tables: Vec<Table>,
    upstreams: &[UpstreamSettings],
    case_sensitive: bool,
    f: &mut Findings,
) -> Vec<RouteSettings> {
    let settings: Vec<_> = tables.into_iter().filter_map(|table| route(table, upstreams, f)).collect();
    for conflict in route_tree::conflicts(&settings, case_sensitive) {
        let (path, first) = (conflict.path, conflict.first);
        let what = format!(
            "\"{path}\" cannot be told apart from the route at {}:{}; give one of them other methods or another query",
            first.file, first.line
        );
        f.faults.push(super::Fault { place: Some(conflict.second), key: "routes.path".to_owned(), what });
    }
    settings
}

fn route(mut table: Table, upstreams: &[UpstreamSettings], f: &mut Findings) -> Option<RouteSettings> {
    let path = table.parsed("path", f, |text| match routes::check_path(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(what) => Err(format!("\"{text}\": {what}")),
    });
    let path = table.required("path", path, f);
    let place = table.place_of("path").place();
    let rule = rule(&mut table, path.as_deref(), f);
    table.refuse_empty("methods", "leave it out for all methods", f);
    let methods = table.parsed_list("methods", f, front::method);
    let query = table.table("query", f).map(|query| self::query(query, f)).unwrap_or_default();
    let strip_prefix = strip_prefix(&mut table, path.as_deref(), f);
    let websocket = websocket(&mut table, f);
    if websocket == WebSocketMode::FirstFrame && matches!(rule, Some(Rule::Public)) {
        let what = "asks who calls; write access = \"authenticated\" or name a resource";
        table.fault("websocket", format!("\"first_frame\" {what}"), f);
    }
    let encoded_slash = table.bool("encoded_slash", false, f);
    let body = body_rules(&mut table, rule.as_ref(), f);
    let target = target(&mut table, rule.as_ref(), upstreams, f);
    table.finish(f);
    Some(RouteSettings {
        path: path?,
        methods,
        query,
        rule: rule?,
        strip_prefix,
        websocket,
        encoded_slash,
        body,
        target: target?,
        place,
    })
}

/// Exactly one of `resource` and `access`; `permission` and `own` belong to the first.
fn rule(table: &mut Table, path: Option<&str>, f: &mut Findings) -> Option<Rule> {
    let words = [("public", Rule::Public), ("authenticated", Rule::Authenticated), ("deny", Rule::Deny)];
    let access = table.word("access", &words, f);
    let resource = table.text("resource", f);
    let permission = table.parsed("permission", f, permission);
    let own = own(table, path, f);
    match (table.has("access"), table.has("resource")) {
        (true, true) => table.fault("access", "stands beside resource; keep one of them", f),
        (false, false) => {
            let what = "is missing; name one, or write access = \"public\", \"authenticated\" or \"deny\"";
            table.fault("resource", what, f);
        }
        (true, false) => {
            for key in ["permission", "own"].into_iter().filter(|key| table.has(key)) {
                table.fault(key, "has no meaning without a resource; name one instead of access", f);
            }
        }
        (false, true) => {}
    }
    access.or_else(|| resource.map(|name| Rule::Resource { name, permission, own }))
}

/// What a route asks for is the plain permission; `own` says when the own variant is asked.
fn permission(text: &str) -> Result<Permission, String> {
    use Permission::{All, Create, CreateOwn, Delete, DeleteOwn, Read, ReadOwn, Update, UpdateOwn};
    match Permission::parse(text) {
        Some(plain @ (All | Create | Read | Update | Delete)) => Ok(plain),
        Some(CreateOwn | ReadOwn | UpdateOwn | DeleteOwn) => {
            Err(format!("\"{text}\" is asked by `own`; write the permission without the o"))
        }
        None => Err(format!("\"{text}\" is unknown; it must be c, r, u, d or *")),
    }
}

fn own(table: &mut Table, path: Option<&str>, f: &mut Findings) -> Own {
    let words = [
        ("user@query", Own::UserQuery),
        ("user@caller", Own::UserCaller),
        ("domain", Own::Domain),
        ("fallback", Own::Fallback),
    ];
    let own = table.word("own", &words, f).unwrap_or(Own::Never);
    let needs_user = matches!(own, Own::UserQuery | Own::UserCaller);
    if needs_user && path.is_some_and(|path| !routes::has_placeholder(path, "user")) {
        table.fault("own", "needs {user} as a segment of the path, to know whose it is", f);
    }
    own
}

fn query(mut table: Table, f: &mut Findings) -> Vec<(String, Vec<String>)> {
    let mut query = Vec::new();
    for name in table.names() {
        table.refuse_empty(&name, "name the values that are meant", f);
        let values = table.parsed_list(&name, f, |text| Ok(text.to_owned()));
        if name.is_empty() {
            table.fault(&name, "is no parameter", f);
        }
        query.extend(values.map(|values| (name, values)));
    }
    table.finish(f);
    query
}

fn strip_prefix(table: &mut Table, path: Option<&str>, f: &mut Findings) -> String {
    let read = |text: &str| {
        path.map_or(Ok(()), |path| routes::check_strip_prefix(path, text)).map(|()| text.to_owned())
    };
    table.parsed("strip_prefix", f, read).unwrap_or_default()
}

fn websocket(table: &mut Table, f: &mut Findings) -> WebSocketMode {
    let words = [
        ("credentials", WebSocketMode::Credentials),
        ("first_frame", WebSocketMode::FirstFrame),
        ("deny", WebSocketMode::Deny),
    ];
    table.word("websocket", &words, f).unwrap_or(WebSocketMode::Credentials)
}

/// `body_credentials` and `body`. Without a caller there is nobody whose rights a role could be within.
fn body_rules(table: &mut Table, rule: Option<&Rule>, f: &mut Findings) -> BodyRules {
    let words = [("ignore", false), ("reject", true)];
    let reject_credentials = table.word("body_credentials", &words, f).unwrap_or(false);
    let mut fields = Vec::new();
    if let Some(mut body) = table.table("body", f) {
        let words = [
            ("absent", FieldRule::Absent),
            ("new_role", FieldRule::NewRole),
            ("at_most_own", FieldRule::AtMostOwn),
        ];
        for name in body.names() {
            let field = body.word(&name, &words, f);
            if field == Some(FieldRule::AtMostOwn) && matches!(rule, Some(Rule::Public)) {
                body.fault(&name, "has no meaning on a public route, whose callers have no role", f);
            }
            fields.extend(field.map(|rule| (name, rule)));
        }
        body.finish(f);
    }
    BodyRules { reject_credentials, fields }
}

/// An upstream, or postern's own answer; a `deny` route needs neither.
fn target(
    table: &mut Table,
    rule: Option<&Rule>,
    upstreams: &[UpstreamSettings],
    f: &mut Findings,
) -> Option<Target> {
    let answer = table.word("answer", &[("whoami", Target::Whoami)], f);
    let upstream = table.parsed("upstream", f, |text| {
        let at = upstreams.iter().position(|upstream| *upstream.name == *text);
        let names = || upstreams.iter().map(|upstream| &*upstream.name);
        at.map(UpstreamId).ok_or_else(|| format!("there is no upstream \"{text}\"{}", hint(text, names())))
    });
    match (table.has("answer"), table.has("upstream"), rule) {
        (true, _, Some(Rule::Public | Rule::Deny)) => {
            table.fault("answer", "tells who calls; write access = \"authenticated\" or name a resource", f);
        }
        (true, true, _) => {
            f.warn(&table.place_of("upstream"), &table.key("upstream"), "is of no use beside answer");
        }
        (false, false, Some(Rule::Deny)) => return Some(Target::Nowhere),
        (false, false, _) => table.fault("upstream", "is missing; name where requests go", f),
        (true, false, _) | (false, true, _) => {}
    }
    answer.or(upstream.map(Target::Upstream))
}
