//! Servers as the whole process sees them: addresses, health, the count of connections. Shared by all threads and
//! only read on the hot path.

use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::standing::Standing;
use super::tls::TlsClient;
use super::{ServerUrl, UpstreamSettings};
use crate::clock::monotonic;
use crate::telemetry::label::Label;

/// Failed checks in a row after which a server is out; one success brings it back.
const FAILURES_OUT: u32 = 2;
/// The most addresses that one name counts for.
const MAX_ADDRESSES: usize = 64;

/// One address of one server of an upstream.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) url: ServerUrl,
    pub(super) addr: SocketAddr,
    /// What health checks say.
    unhealthy: AtomicBool,
    failed_checks: AtomicU32,
    /// What requests say.
    pub(super) standing: Standing,
}

impl Server {
    fn new(url: ServerUrl, addr: SocketAddr) -> Self {
        let (unhealthy, failed_checks) = (AtomicBool::new(false), AtomicU32::new(0));
        Self { url, addr, unhealthy, failed_checks, standing: Standing::new() }
    }

    /// `upstream/address:port`, for logs and metrics.
    pub(super) fn label(&self, upstream: &str) -> Label {
        Label::of(&format!("{upstream}/{}", self.addr))
    }

    /// By its health checks.
    pub(super) fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Relaxed)
    }

    /// Neither unhealthy nor ejected.
    pub(super) fn is_asked(&self) -> bool {
        self.is_healthy() && !self.standing.is_out()
    }

    /// Notes the result of one health check.
    pub(super) fn checked(&self, good: bool) {
        if good {
            self.failed_checks.store(0, Ordering::Relaxed);
            if self.unhealthy.swap(false, Ordering::Relaxed) {
                self.standing.came_back();
            }
        } else if self.failed_checks.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_OUT {
            self.unhealthy.store(true, Ordering::Relaxed);
        }
    }
}

/// One upstream.
pub(super) struct Group {
    pub(super) settings: UpstreamSettings,
    pub(super) limit: Arc<Limit>,
    pub(super) tls: Option<TlsClient>,
    servers: ArcSwap<Vec<Arc<Server>>>,
    generation: AtomicU64,
    /// The addresses of each of `settings.servers`; None: not asked yet.
    addresses: Mutex<Vec<Option<Vec<SocketAddr>>>>,
    asked: watch::Sender<bool>,
    /// Ejections are counted one after another, so that they keep to their share.
    ejecting: Mutex<()>,
}

impl Group {
    pub(super) fn new(settings: UpstreamSettings, tls: Option<TlsClient>) -> Self {
        let limit = Limit::of(&settings.name, settings.max_connections);
        let addresses = Mutex::new(vec![None; settings.servers.len()]);
        let (servers, generation, asked) = (ArcSwap::default(), AtomicU64::new(0), watch::Sender::new(false));
        Self { settings, limit, tls, servers, generation, addresses, asked, ejecting: Mutex::new(()) }
    }

    /// Begins with what the group of an earlier configuration knows of the servers that are here too.
    pub(super) fn inherit(&self, before: &Self) {
        let known = before.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.servers.store(before.servers());
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        for (url, found) in self.settings.servers.iter().zip(addresses.iter_mut()) {
            let same = before.settings.servers.iter().position(|other| other == url);
            *found = same.and_then(|index| known.get(index).cloned().flatten());
        }
        self.rebuild(&addresses);
        if addresses.iter().all(Option::is_some) {
            self.asked.send_replace(true);
        }
    }

    /// Changes whenever [`Group::servers`] does.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn servers(&self) -> Arc<Vec<Arc<Server>>> {
        self.servers.load_full()
    }

    /// Notes what the name of the server at `index` resolved to. Nothing found keeps the last good answer.
    pub(super) fn resolved(&self, index: usize, mut found: Vec<SocketAddr>) {
        found.sort_unstable();
        found.dedup();
        // Sorted, the same ones stay.
        found.truncate(MAX_ADDRESSES);
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = addresses.get_mut(index) else { return };
        match known {
            Some(last) if found.is_empty() || *last == found => {}
            _ => {
                *known = Some(found);
                self.rebuild(&addresses);
            }
        }
        if addresses.iter().all(Option::is_some) {
            self.asked.send_replace(true);
        }
    }

    /// Notes a request that the server did not answer by its own fault. Whether it is ejected for it: no more than half
    /// of the servers are out at once, those included that are unhealthy, so the only one never is.
    pub(super) fn failed(&self, server: &Server) -> bool {
        let eject = &self.settings.eject;
        let servers = self.servers();
        if !server.standing.failed(eject.failures) || servers.len() < 2 {
            return false;
        }
        let _one = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let out = servers.iter().filter(|other| other.addr != server.addr && !other.is_asked()).count();
        if (out + 1) * 2 > servers.len() && !server.standing.is_out() {
            return false;
        }
        let Some(time) = server.standing.eject(monotonic(), eject) else { return false };
        let (upstream, addr) = (&self.settings.name, server.addr);
        tracing::warn!(%upstream, %addr, ?time, "a server fails requests and is left out");
        true
    }

    /// A server that stays keeps its health.
    fn rebuild(&self, addresses: &[Option<Vec<SocketAddr>>]) {
        let old = self.servers();
        let server = |url: &ServerUrl, addr: &SocketAddr| {
            let same = old.iter().find(|s| s.addr == *addr && s.url == *url);
            same.cloned().unwrap_or_else(|| Arc::new(Server::new(url.clone(), *addr)))
        };
        let pairs = self.settings.servers.iter().zip(addresses);
        let servers = pairs
            .flat_map(|(url, found)| found.iter().flatten().map(move |addr| (url, addr)))
            .map(|(url, addr)| server(url, addr))
            .collect();
        self.servers.store(Arc::new(servers));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Waits until every name was asked for once, at most `connect_timeout`.
    pub(super) async fn until_asked(&self) {
        let mut asked = self.asked.subscribe();
        let _ = tokio::time::timeout(self.settings.connect_timeout, asked.wait_for(|asked| *asked)).await;
    }
}

/// `max_connections` of an upstream over all threads. Outlives a reload that does not change it.
pub(super) struct Limit {
    slots: Arc<Semaphore>,
    max: usize,
    /// Of these, what sockets may take of which nobody knows yet whose they are.
    anonymous: Arc<Semaphore>,
    wanted: AtomicUsize,
    /// Who waits for a connection that somebody else is about to open.
    turns: AtomicUsize,
}

type Known = Vec<(Arc<str>, usize, Weak<Limit>)>;

static LIMITS: Mutex<Known> = Mutex::new(Vec::new());

impl Limit {
    fn of(name: &Arc<str>, max: usize) -> Arc<Self> {
        let mut known = LIMITS.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, _, limit)| limit.strong_count() > 0);
        let same = known.iter().find(|(n, m, _)| n == name && *m == max);
        if let Some(limit) = same.and_then(|(_, _, limit)| limit.upgrade()) {
            return limit;
        }
        let max = max.min(Semaphore::MAX_PERMITS);
        let (slots, anonymous) = (Semaphore::new(max), Semaphore::new(max.div_ceil(2)));
        let (slots, anonymous) = (Arc::new(slots), Arc::new(anonymous));
        let limit =
            Arc::new(Self { slots, max, anonymous, wanted: AtomicUsize::new(0), turns: AtomicUsize::new(0) });
        known.push((name.clone(), max, Arc::downgrade(&limit)));
        limit
    }

    /// Whether someone waits for a slot: idle connections are to be given up.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) > 0
    }

    pub(super) fn try_slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().try_acquire_owned().ok()
    }

    /// Whether half of the connections are free: who has one may take another.
    pub(super) fn has_plenty(&self) -> bool {
        self.slots.available_permits() >= self.max.div_ceil(2)
    }

    /// A place among those of whom nobody knows yet who they are. None: they have half of the connections already, and
    /// shall not take what known callers need.
    pub(super) fn anonymous(&self) -> Option<OwnedSemaphorePermit> {
        self.anonymous.clone().try_acquire_owned().ok()
    }

    /// To be held by who waits for a connection that another request opens, for itself and others. None: there is no room for
    /// connections of their own, and `max` wait already.
    pub(super) fn waits_for_a_turn(&self, max: usize) -> Option<Wish<'_>> {
        let max = if self.slots.available_permits() == 0 { max.saturating_add(1) } else { usize::MAX };
        Wish::of(&self.turns, max)
    }

    /// Waits for a slot. None: there was none in time, or `max` others wait already.
    pub(super) async fn slot(&self, wait: Duration, max: usize) -> Option<OwnedSemaphorePermit> {
        let _wish = Wish::of(&self.wanted, max)?;
        tokio::time::timeout(wait, self.slots.clone().acquire_owned()).await.ok()?.ok()
    }
}

/// Counts one who waits, also if its future is dropped.
pub(super) struct Wish<'w>(&'w AtomicUsize);

impl<'w> Wish<'w> {
    /// None: `max` are counted already.
    fn of(wanted: &'w AtomicUsize, max: usize) -> Option<Self> {
        let wish = Self(wanted);
        (wanted.fetch_add(1, Ordering::Relaxed) < max).then_some(wish)
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
