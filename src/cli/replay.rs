//! `postern replay`: recorded access-log lines are decided again under a configuration, and what would change is
//! printed. Sessions are not asked: who was let in then is taken for who he was.

use clap::Args;
use flate2::bufread::MultiGzDecoder;
use http::Method;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{WRONG, print, tell, with_config};
use crate::access::path::CanonicalPath;
use crate::access::policy::{Caller, Policy, Question};
use crate::access::routes::{Route, Rule, WebSocketMode};
use crate::access::{AccessSettings, Denied, Reason};
use crate::gateway::rejection::Rejection;
use crate::identity::{RoleName, UserName};
use crate::telemetry::exchange::Decision;

#[derive(Args)]
pub(super) struct Replay {
    /// The configuration [default: $POSTERN_CONFIG, else /etc/postern/postern.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Exit 1 when any decision would change
    #[arg(long)]
    fail_on_change: bool,
    /// Access logs, plain or gzip
    #[arg(required = true, value_name = "ACCESS_LOG")]
    logs: Vec<PathBuf>,
}

/// What a line says, as far as it bears on the decision.
#[derive(Deserialize)]
struct Recorded<'l> {
    #[serde(borrow)]
    method: Cow<'l, str>,
    #[serde(borrow)]
    path: Cow<'l, str>,
    #[serde(borrow, default)]
    query: Option<Cow<'l, str>>,
    #[serde(default)]
    status: u16,
    #[serde(borrow, default)]
    route: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    user: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    role: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    decision: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    reason: Option<Cow<'l, str>>,
}

/// What the lines came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    decided: u64,
    same: u64,
    /// Lines of requests that no permission decides (logins, refused before a decision), and what is no access line.
    without: u64,
    unreadable: u64,
    /// By role, route and direction.
    flips: BTreeMap<(String, String, Flip), u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Flip {
    Denied,
    Allowed,
}

pub(super) fn run(args: Replay) -> ExitCode {
    let loaded = match with_config(args.config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let judge = Judge::new(&loaded.settings.access);
    let mut report = Report::default();
    for log in &args.logs {
        if let Err(error) = open(log).and_then(|lines| judge.replay(lines, &mut report)) {
            tell(std::iter::once(format!("postern replay: {}: {error}", log.display())));
            return ExitCode::from(WRONG);
        }
    }
    let changed = !report.flips.is_empty();
    let code = print(report.text().trim_end());
    if changed && args.fail_on_change { ExitCode::FAILURE } else { code }
}

/// Told apart by the first bytes, not by the name.
fn open(log: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = BufReader::with_capacity(1 << 18, File::open(log)?);
    let is_gzip = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if is_gzip {
        Box::new(BufReader::with_capacity(1 << 18, MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    })
}

/// The rules of one configuration.
struct Judge<'s> {
    settings: &'s AccessSettings,
    policy: Policy,
}

impl<'s> Judge<'s> {
    fn new(settings: &'s AccessSettings) -> Self {
        let policy = Policy::new(&settings.routes, &settings.roles, settings.case_sensitive);
        Self { settings, policy }
    }

    fn replay(&self, mut lines: impl BufRead, report: &mut Report) -> io::Result<()> {
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            self.line(line.trim_ascii(), report);
            line.clear();
        }
        Ok(())
    }

    fn line(&self, line: &[u8], report: &mut Report) {
        if line.is_empty() {
            return;
        }
        let Ok(recorded) = serde_json::from_slice::<Recorded<'_>>(line) else {
            report.unreadable += 1;
            return;
        };
        let was = match recorded.decision.as_deref() {
            Some("allow") => Decision::Allow,
            Some("deny") => Decision::Deny,
            Some(_) | None => {
                report.without += 1;
                return;
            }
        };
        let (is, route) = self.decide(&recorded, was);
        report.decided += 1;
        if is == was {
            report.same += 1;
            return;
        }
        let flip = if is == Decision::Allow { Flip::Allowed } else { Flip::Denied };
        let role = recorded.role.as_deref().unwrap_or("-").to_owned();
        let route = route.or_else(|| recorded.route.as_deref().map(str::to_owned));
        *report.flips.entry((role, route.unwrap_or_else(|| "-".to_owned()), flip)).or_default() += 1;
    }

    /// The decision now, and the route that made it.
    fn decide(&self, recorded: &Recorded<'_>, was: Decision) -> (Decision, Option<String>) {
        let Ok(path) = CanonicalPath::parse(&recorded.path) else { return (Decision::Deny, None) };
        if self.settings.own_path(&path).is_some() {
            return (was, None);
        }
        let reason = recorded.reason.as_deref().filter(|_| was == Decision::Deny);
        // The line does not say what was ambiguous, nor which authority was not the Host.
        let cannot_change = reason == Some(Reason::AmbiguousCredentials.as_str())
            // Nor what stood in the body.
            || reason.is_some_and(|reason| reason.starts_with("body_"))
            || (reason == Some(Reason::BadPath.as_str()) && !path.has_encoded_slash());
        let Some(method) = Method::from_bytes(recorded.method.as_bytes()).ok().filter(|_| !cannot_change)
        else {
            return (Decision::Deny, None);
        };
        let question = Question { path: &path, method: &method, query: recorded.query.as_deref() };
        let (user, role) = (recorded.user.as_deref().map(UserName::new), recorded.role.as_deref());
        let role = RoleName::new(role.unwrap_or_default());
        let unknown = was == Decision::Deny && reason.is_some_and(is_of_credentials);
        let upgrade = recorded.status == 101 || reason == Some(Rejection::UpgradeDenied.reason());
        let nobody = unknown || recorded.role.is_none();
        // An upgrade as well, which the upstream did not take: nobody in particular was let through.
        let failed = was == Decision::Allow && matches!(recorded.status, 502..=504) && method == Method::GET;
        // Who opened it was judged by his first message, of which the line knows nothing.
        let guarded =
            |route: &Route| (upgrade || failed) && nobody && route.websocket == WebSocketMode::FirstFrame;
        match self.policy.judge(question, Caller { user: user.as_ref(), ..Caller::of_role(&role) }) {
            Ok((route, _)) => {
                let nobody = nobody && route.rule != Rule::Public && !guarded(&route);
                let denied = nobody || upgrade && route.websocket == WebSocketMode::Deny;
                let decision = if denied { Decision::Deny } else { Decision::Allow };
                (decision, Some(route.label.to_string()))
            }
            Err(Denied { reason, route: Some(route), .. }) => {
                let opened = reason == Reason::NoPermission && guarded(&route);
                let decision = if opened { Decision::Allow } else { Decision::Deny };
                (decision, Some(route.label.to_string()))
            }
            Err(Denied { route: None, .. }) => (Decision::Deny, None),
        }
    }
}

/// Whether it was the caller who was not good, whatever he asked for.
fn is_of_credentials(reason: &str) -> bool {
    [
        Reason::NoToken,
        Reason::NoKey,
        Reason::UnknownKey,
        Reason::TokenMismatch,
        Reason::Expired,
        Reason::DomainTokenUnknown,
        Reason::DomainTokenDisabled,
        Reason::DomainTokenInvalid,
        Reason::EngineUnavailable,
        Reason::StoreUnavailable,
    ]
    .iter()
    .any(|of_credentials| of_credentials.as_str() == reason)
}

impl Report {
    fn text(&self) -> String {
        let mut out = format!("{} decisions made again", self.decided);
        if self.without > 0 {
            out.push_str(&format!(", {} lines hold none", self.without));
        }
        if self.unreadable > 0 {
            out.push_str(&format!(", {} lines are no access lines", self.unreadable));
        }
        out.push('\n');
        let count =
            |wanted| self.flips.iter().filter(|((.., flip), _)| *flip == wanted).map(|(_, n)| n).sum::<u64>();
        let (denied, allowed) = (count(Flip::Denied), count(Flip::Allowed));
        if denied + allowed == 0 {
            out.push_str("no decision changes\n");
            return out;
        }
        out.push_str(&format!(
            "{} would change: {denied} newly denied, {allowed} newly allowed\n",
            denied + allowed
        ));
        for ((role, route, flip), n) in &self.flips {
            let direction = match flip {
                Flip::Denied => "allow -> deny",
                Flip::Allowed => "deny -> allow",
            };
            out.push_str(&format!("{n:>9}  {direction}  role {role}  route {route}\n"));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::acl::RoleSettings;
    use crate::access::credentials::CredentialNames;
    use crate::access::routes::{Own, RouteSettings};
    use crate::access::samples::route;
    use crate::permission::Permission;

    fn settings() -> AccessSettings {
        let rule =
            |resource: &str| Rule::Resource { name: resource.into(), permission: None, own: Own::UserCaller };
        AccessSettings {
            routes: vec![
                RouteSettings { rule: rule("cdr"), ..route("/cdr/{user}") },
                RouteSettings { rule: Rule::Public, ..route("/public") },
                RouteSettings { rule: Rule::Authenticated, encoded_slash: true, ..route("/me") },
                RouteSettings { rule: Rule::Authenticated, websocket: WebSocketMode::Deny, ..route("/ws") },
                RouteSettings { rule: rule("cdr"), websocket: WebSocketMode::FirstFrame, ..route("/door") },
            ],
            roles: vec![RoleSettings {
                name: RoleName::new("low"),
                number: None,
                inherits: Vec::new(),
                allow: vec![("cdr".into(), vec![Permission::Read, Permission::ReadOwn])],
            }],
            names: CredentialNames::default(),
            case_sensitive: false,
            own_below: Vec::new(),
        }
    }

    fn replayed(lines: &[&str]) -> Report {
        let (settings, mut report) = (settings(), Report::default());
        Judge::new(&settings).replay(lines.join("\n").as_bytes(), &mut report).unwrap();
        report
    }

    #[test]
    fn a_decision_that_stays_is_no_flip() {
        let report = replayed(&[
            r#"{"method":"GET","path":"/cdr/7","role":"low","user":"8@d","decision":"allow"}"#,
            r#"{"method":"GET","path":"/CDR/7/","role":"low","user":"7@d","decision":"allow"}"#,
            r#"{"method":"POST","path":"/cdr/7","role":"low","user":"8@d","decision":"deny","reason":"no_permission"}"#,
            r#"{"method":"GET","path":"/public/x","decision":"allow"}"#,
            r#"{"method":"GET","path":"/cdr/7","decision":"deny","reason":"no_token"}"#,
            r#"{"method":"GET","path":"/me","role":"low","user":"8@d","decision":"deny","reason":"expired"}"#,
            r#"{"method":"GET","path":"/public/x","decision":"deny","reason":"ambiguous_credentials"}"#,
            r#"{"method":"GET","path":"/public/x","decision":"deny","reason":"bad_path"}"#,
            r#"{"method":"GET","path":"/public/%2e%2e/x","decision":"deny","reason":"bad_path"}"#,
            r#"{"method":"GET","path":"/ws","role":"low","user":"8@d","decision":"deny","reason":"upgrade_denied"}"#,
            r#"{"method":"GET","path":"/door","status":101,"decision":"allow"}"#,
            r#"{"method":"GET","path":"/door","status":502,"decision":"allow"}"#,
            r#"{"method":"GET","path":"/door","role":"low","user":"8@d","decision":"deny","reason":"body_credential"}"#,
            r#"{"method":"GET","path":"/door","decision":"deny","reason":"no_token"}"#,
        ]);
        assert_eq!((report.decided, report.same, report.flips.len()), (14, 14, 0), "{report:?}");
        assert!(report.text().contains("no decision changes"));
    }

    #[test]
    fn flips_are_counted_by_role_route_and_direction() {
        let report = replayed(&[
            r#"{"method":"POST","path":"/cdr/7","role":"low","user":"8@d","decision":"allow"}"#,
            r#"{"method":"POST","path":"/cdr/8","role":"low","user":"8@d","decision":"allow"}"#,
            r#"{"method":"GET","path":"/cdr/7","role":"low","decision":"deny","reason":"no_permission"}"#,
            r#"{"method":"GET","path":"/public/x","decision":"deny","reason":"no_token"}"#,
            r#"{"method":"GET","path":"/me/a%2fb","role":"low","decision":"deny","reason":"bad_path"}"#,
            r#"{"method":"GET","path":"/ws","role":"low","status":101,"decision":"allow"}"#,
            r#"{"method":"GET","path":"/gone","role":"low","route":"/old","decision":"allow"}"#,
            r#"{"method":"GET","path":"/cdr/7","role":"ghost","decision":"allow"}"#,
        ]);
        let found: Vec<_> = report
            .flips
            .iter()
            .map(|((role, route, flip), n)| (role.as_str(), route.as_str(), *flip, *n))
            .collect();
        assert_eq!(
            found,
            [
                ("-", "/public", Flip::Allowed, 1),
                ("ghost", "/cdr/{user}", Flip::Denied, 1),
                ("low", "/cdr/{user}", Flip::Denied, 2),
                ("low", "/cdr/{user}", Flip::Allowed, 1),
                ("low", "/me", Flip::Allowed, 1),
                ("low", "/old", Flip::Denied, 1),
                ("low", "/ws", Flip::Denied, 1),
            ]
        );
        assert!(report.text().contains("8 would change: 5 newly denied, 3 newly allowed"));
    }

    #[test]
    fn lines_without_a_decision_and_other_lines_are_counted() {
        let report = replayed(&[
            r#"{"method":"POST","path":"/login","status":200}"#,
            "not json",
            r#"{"x":1}"#,
            "",
            "\u{feff}",
        ]);
        assert_eq!((report.decided, report.without, report.unreadable), (0, 1, 3));
    }
}
