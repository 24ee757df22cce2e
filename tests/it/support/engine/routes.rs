//! The rows of the table of routes, and how Express finds one.

use std::sync::LazyLock;

/// One route of the real engine or CDR server.
#[derive(Clone, Debug)]
pub struct Row {
    pub method: String,
    pub pattern: String,
    pub resource: String,
    pub action: String,
    pub notes: String,
}

const TABLE: &str = include_str!("../../../data/webitel-routes.csv");

/// In the order in which they are registered; a row of several methods is several.
pub fn rows() -> &'static [Row] {
    static ROWS: LazyLock<Vec<Row>> = LazyLock::new(read);
    &ROWS
}

fn read() -> Vec<Row> {
    let mut rows = Vec::new();
    for line in TABLE.lines().skip(1) {
        let [method, pattern, resource, action, notes] = fields(line).try_into().expect("five fields");
        for method in method.split(',') {
            let method = if method == "ALL" { "GET" } else { method }.to_owned();
            let (pattern, resource) = (pattern.clone(), resource.clone());
            rows.push(Row { method, pattern, resource, action: action.clone(), notes: notes.clone() });
        }
    }
    assert!(rows.len() > 200, "the table of routes was not read");
    rows
}

/// The fields of a line, quoted where they hold a comma or a quote.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

impl Row {
    pub fn is_of_cdr(&self) -> bool {
        self.notes.contains("CDR/storage server")
    }

    /// Whether it is on a port that no gateway leads to.
    pub fn is_private(&self) -> bool {
        self.pattern.contains("port ")
    }

    /// Without credentials, or with those of HTTP Basic.
    pub fn is_v2(&self) -> bool {
        self.notes.contains("auth=v2")
            || (self.notes.contains("as above") && self.pattern.starts_with("/api/v2"))
    }

    /// A path that this row answers, its parameters filled in.
    pub fn path(&self) -> String {
        match self.pattern.as_str() {
            "/*" => "/any/path".into(),
            "/ (static)" => "/favicon.ico".into(),
            r"/^\/api\/v2\/r\/(cdr|files|media|tcp_dump|statistic)/" => "/api/v2/r/cdr/text".into(),
            r"/^\/api\/v2\/(cdr|files|media|tcp_dump|statistic)/" => "/api/v2/cdr/of-the-passthrough".into(),
            "/api/v2/accounts?:domain" => "/api/v2/accounts".into(),
            pattern => {
                let fill = |segment: &str| match segment.strip_prefix(':') {
                    Some(name) => format!("the-{}", name.trim_end_matches('?').to_lowercase()),
                    None => segment.replace('?', ""),
                };
                pattern.split('/').map(fill).collect::<Vec<_>>().join("/")
            }
        }
    }

    /// Whether Express finds this route: without regard to letter case and to one slash at the end, on the raw path.
    pub fn takes(&self, method: &str, path: &str) -> bool {
        let method = if method == "HEAD" { "GET" } else { method };
        self.method == method && self.matches(path)
    }

    fn matches(&self, path: &str) -> bool {
        if self.pattern == "/api/v2/accounts?:domain" {
            let rest = path.to_lowercase().strip_prefix("/api/v2/account").map(str::to_owned);
            return rest.is_some_and(|rest| {
                !rest.trim_end_matches('/').is_empty() && !rest.trim_end_matches('/').contains('/')
            });
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        let pattern = self.pattern.strip_suffix('/').unwrap_or(&self.pattern);
        let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return true,
                (Some(want), None) => {
                    return want.starts_with(':') && want.ends_with('?') && wanted.next().is_none();
                }
                (Some(want), Some(have)) if segment(want, have) => {}
                _ => return false,
            }
        }
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str, path: &str) -> Option<String> {
        let at = self.pattern.split('/').position(|segment| segment.strip_prefix(':') == Some(name))?;
        path.split('/').nth(at).map(str::to_owned)
    }
}

fn segment(want: &str, have: &str) -> bool {
    if want.starts_with(':') {
        return !have.is_empty();
    }
    match want.split_once("s?") {
        Some((stem, "")) => {
            [stem.to_owned(), format!("{stem}s")].iter().any(|w| w.eq_ignore_ascii_case(have))
        }
        _ => want.eq_ignore_ascii_case(have),
    }
}
