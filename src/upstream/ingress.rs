//! An ingress that forwards a permitted request itself: what it must change in it, so that the upstream is told what a
//! forward of ours would have told it (contract section 5). By the same header policy; sends nothing.

use http::header::HeaderName;
use http::{HeaderMap, Uri};

use super::Upstreams;
use super::headers::identity;
use crate::access::Permit;
use crate::access::routes::Target;

/// What is to be changed in a request.
#[derive(Debug, Default)]
pub struct Amendment {
    /// To be set, whatever stands there: who calls.
    pub identity: HeaderMap,
    /// To be set: the credentials that were judged. Marked sensitive.
    pub credentials: HeaderMap,
    /// To be taken out: what no client may tell an upstream, and credentials that do not go on.
    pub remove: Vec<HeaderName>,
    /// The path and query to forward; none: as they were sent.
    pub target: Option<String>,
}

/// The header fields that tell who calls: of a permitted request, without those of a public route.
#[must_use]
pub fn identity_of(permit: &Permit) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(4);
    let caller = permit.principal().map(|p| (p.user(), p.role()));
    identity::put(caller, permit.scope(), &mut fields);
    fields
}

/// The names of all fields by which an upstream is told who calls.
#[must_use]
pub fn identity_names() -> [&'static HeaderName; 4] {
    identity::names()
}

impl Upstreams {
    /// For a request that passes without a caller, to where the gateway's own paths are served, there at this target; none:
    /// as it was sent.
    #[must_use]
    pub fn amendment_of_nobody(&self, headers: &HeaderMap, target: Option<String>) -> Amendment {
        let remove = headers.keys().filter(|name| self.policy.is_forged(name)).cloned().collect();
        Amendment { remove, target, ..Amendment::default() }
    }

    /// For a permitted request with these header fields and this target. Its path stays whole: what comes of
    /// `strip_prefix` is the ingress' to do.
    #[must_use]
    pub fn amendment(&self, permit: &Permit, headers: &HeaderMap, sent: &Uri) -> Amendment {
        let identity = identity_of(permit);
        let forwards = match permit.route().target {
            Target::Upstream(id) => {
                self.groups.get(id.0).is_none_or(|group| group.shared.settings.forward_credentials)
            }
            Target::Whoami | Target::Nowhere => true,
        };
        let mut credentials = HeaderMap::new();
        if let Some(judged) = permit.credentials().filter(|_| forwards) {
            self.policy.put_judged(judged, &mut credentials);
        }
        let as_came = forwards && permit.principal().is_none();
        let names = headers.keys().filter(|name| {
            let is_set = identity.contains_key(*name) || credentials.contains_key(*name);
            let goes = as_came && self.policy.is_credential(name);
            !is_set && !goes && (self.policy.is_credential(name) || self.policy.is_forged(name))
        });
        let remove = names.cloned().collect();
        let target = permit.whole_target();
        let is_same = sent.path_and_query().is_some_and(|sent| sent.as_str() == target);
        Amendment { identity, credentials, remove, target: (!is_same).then_some(target) }
    }
}
