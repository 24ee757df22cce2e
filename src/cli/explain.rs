//! `postern explain`: why a request of some role would be allowed or refused.

use clap::Args;
use http::Method;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{WRONG, print, tell, with_config, wrong_usage};
use crate::access::explain::{Asked, Explanation, explain};
use crate::access::policy::Policy;
use crate::identity::{RoleName, UserName};

#[derive(Args)]
pub(super) struct Explain {
    /// The configuration [default: $POSTERN_CONFIG, else /etc/postern/postern.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The caller's role
    #[arg(long)]
    role: String,
    /// The caller, for own variants [default: nobody in particular]
    #[arg(long)]
    user: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// As the request line has it: GET, POST, ...
    method: String,
    /// As the request line has it, with its query
    path: String,
}

pub(super) fn run(args: Explain) -> ExitCode {
    let loaded = match with_config(args.config.clone()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let access = &loaded.settings.access;
    let role = RoleName::new(&args.role);
    if !access.roles.iter().any(|known| known.name == role) {
        let names: Vec<_> = access.roles.iter().map(|known| known.name.as_str()).collect();
        return wrong_usage(
            "explain",
            &format!("there is no role \"{role}\"; there are {}", names.join(", ")),
        );
    }
    let Ok(method) = Method::from_bytes(args.method.as_bytes()) else {
        return wrong_usage("explain", &format!("\"{}\" is no method; write it like GET", args.method));
    };
    if !args.path.starts_with('/') {
        return wrong_usage("explain", &format!("\"{}\" is no path; it begins with /", args.path));
    }
    let policy = Policy::new(&access.routes, &access.roles, access.case_sensitive);
    let user = args.user.as_deref().map(UserName::new);
    let asked = Asked { method: &method, target: &args.path, role: &role, user: user.as_ref() };
    let told = explain(access, &policy, asked);
    if !args.json {
        return print(text(&told).trim_end());
    }
    match serde_json::to_string_pretty(&told) {
        Ok(json) => print(&json),
        Err(error) => {
            tell(std::iter::once(format!("postern explain: {error}")));
            ExitCode::from(WRONG)
        }
    }
}

/// One fact a line; what is not there is left out.
fn text(told: &Explanation) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _: std::fmt::Result = writeln!(out, "{name:<11} {value}");
        }
    };
    let decision = match told.decision {
        "allow" => "allowed",
        "deny" => "denied",
        other => other,
    };
    line("decision", Some(decision.to_owned()));
    line("reason", told.reason.clone());
    line("request", Some(format!("{} {}", told.method, told.path)));
    line("path", told.canonical.clone());
    line(
        "route",
        told.route.as_ref().map(|route| {
            let methods =
                route.methods.as_ref().map(|methods| format!(" {}", methods.join(" "))).unwrap_or_default();
            format!("{}{methods} ({}), {}:{}", route.path, route.access, route.file, route.line)
        }),
    );
    line("resource", told.resource.clone());
    line("permission", told.permission.map(str::to_owned));
    line("roles", (!told.roles.is_empty()).then(|| told.roles.join(" < ")));
    line(
        "granted by",
        told.granted_by
            .as_ref()
            .map(|by| format!("role {} holds {} on {}", by.role, by.permission, by.resource)),
    );
    line("missing", told.missing.clone());
    line("scope", told.scope.map(str::to_owned));
    out
}
