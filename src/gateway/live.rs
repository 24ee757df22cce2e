//! The configuration that requests are judged by: one immutable snapshot, swapped whole (`ARCHITECTURE.md`, rule 8).
//! Sessions, the login throttle and the hashing threads live outside of it.

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::authorizer::Convention;
use super::cors::Cors;
use super::login::LoginSettings;
use crate::access::policy::Policy;
use crate::access::{Access, AccessSettings, Callers};
use crate::clock::UnixMillis;
use crate::directory::Directory;
use crate::engine::Engine;
use crate::identity::{RoleName, UserName};
use crate::peer::TrustedProxies;
use crate::server::Limits;
use crate::session::Session;
use crate::session::adopter::Adopter;
use crate::session::map::Sessions;
use crate::session::token::Tokens;
use crate::upstream::{UpstreamSet, Upstreams};

/// One configuration.
pub struct Live {
    /// Compiled by each thread for itself: a request counts references to its route.
    pub access: AccessSettings,
    pub sessions: Arc<Sessions>,
    pub tokens: Arc<Tokens>,
    pub directory: Directory,
    /// Whose sessions are taken over; asked when one of them logs out.
    pub engine: Option<Arc<Engine>>,
    pub adopter: Option<Arc<Adopter>>,
    pub login: LoginSettings,
    pub cors: Option<Cors>,
    /// By which headers an ingress tells what it asks about.
    pub authz: Convention,
    pub limits: Limits,
    pub trusted: TrustedProxies,
    pub upstreams: Arc<UpstreamSet>,
    /// Whether an access line is written.
    pub access_log: bool,
    pub about: About,
    /// Compiled when it is first asked for: by operators, never by a request.
    pub policy: OnceLock<Policy>,
}

/// What an operator is told of a configuration.
pub struct About {
    /// When it was loaded.
    pub loaded: UnixMillis,
    /// What its files say, secrets left out.
    pub shown: serde_json::Value,
    pub files: Vec<PathBuf>,
    pub warnings: Vec<String>,
}

impl Live {
    /// What every answer carries, to a request with this `Origin`.
    pub fn dress(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        if let Some(cors) = &self.cors {
            cors.apply(origin, answer);
        }
    }

    /// The role that a session has by this configuration; none: it ends. That of an engine's session is the engine's
    /// to say, as long as an engine is named.
    #[must_use]
    pub fn role_of(&self, session: &Session) -> Option<RoleName> {
        self.role_for(&session.user, &session.role, session.adopted().is_some())
    }

    /// As [`Live::role_of`], of a session that has been kept with this role.
    #[must_use]
    pub fn role_for(&self, user: &UserName, role: &RoleName, is_adopted: bool) -> Option<RoleName> {
        if is_adopted { self.engine.as_ref().map(|_| role.clone()) } else { self.directory.role_of(user) }
    }

    /// The rules alone, for explanations.
    pub fn policy(&self) -> &Policy {
        let AccessSettings { routes, roles, case_sensitive, .. } = &self.access;
        self.policy.get_or_init(|| Policy::new(routes, roles, *case_sensitive))
    }
}

/// The running configuration, shared by all threads.
pub struct LiveCell {
    current: ArcSwap<Live>,
    /// Raised with each swap: threads compare it, which is a plain load of a line nobody writes.
    generation: AtomicU64,
}

impl LiveCell {
    #[must_use]
    pub fn new(live: Live) -> Self {
        Self { current: ArcSwap::from_pointee(live), generation: AtomicU64::new(1) }
    }

    /// Puts another configuration in place; requests that have begun go on with the one they began with. Returns the
    /// generation.
    pub fn swap(&self, live: Live) -> u64 {
        self.current.swap(Arc::new(live)).upstreams.retire();
        self.generation.fetch_add(1, Ordering::Release) + 1
    }

    /// 1 at start, one more with each swap.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    #[must_use]
    pub fn load(&self) -> Arc<Live> {
        self.current.load_full()
    }
}

/// A snapshot as one thread holds it, with what the thread has of its own: no counter of it is written by others.
pub struct ThreadLive {
    pub live: Arc<Live>,
    pub access: Access,
    pub upstreams: Upstreams,
    pub generation: u64,
}

/// One thread's hold on the running configuration.
pub struct ThreadLiveCell {
    shared: Arc<LiveCell>,
    held: RefCell<Rc<ThreadLive>>,
}

impl ThreadLiveCell {
    #[must_use]
    pub fn new(shared: Arc<LiveCell>) -> Self {
        let held = RefCell::new(Rc::new(ThreadLive::of(&shared)));
        Self { shared, held }
    }

    /// The running configuration: no lock, and no counter that other threads write.
    #[must_use]
    pub fn current(&self) -> Rc<ThreadLive> {
        if self.held.borrow().generation != self.shared.generation() {
            self.held.replace(Rc::new(ThreadLive::of(&self.shared)));
        }
        Rc::clone(&self.held.borrow())
    }
}

impl ThreadLive {
    /// The generation is read first: should a swap come between, the next request looks again.
    fn of(shared: &LiveCell) -> Self {
        let generation = shared.generation();
        let live = shared.load();
        let callers = Callers {
            sessions: Arc::clone(&live.sessions),
            tokens: Arc::clone(&live.tokens),
            adopter: live.adopter.clone(),
        };
        let access = Access::new(live.access.clone(), callers);
        let upstreams = Upstreams::new(Arc::clone(&live.upstreams));
        Self { live, access, upstreams, generation }
    }
}
