//! One server as one thread sees it: its idle connections, and how many requests this thread has there. Lanes live in
//! the thread, not in the configuration, so that idle connections survive a reload that leaves their server as it was.

use rustls_pki_types::CertificateDer;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ServerUrl;
use super::carriers::Carriers;
use super::conn::Connection;
use super::server::{Group, Limit, Server};
use super::standing::Place;
use crate::clock::monotonic;
use crate::deadline::Deadline;
use crate::telemetry::label::Label;

/// How long a connection waits when its server says nothing: Node closes after 5 s.
const IDLE: Duration = Duration::from_secs(4);
/// The longest whatever the server says.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How much earlier than the server says.
const MARGIN: Duration = Duration::from_secs(1);
/// For so long behind an answer the system is not asked whether the connection is still good.
const JUST_USED: Duration = Duration::from_millis(5);
const SWEEP: Duration = Duration::from_millis(250);
/// How long a server that could not be reached is tried last.
const SHUNNED: Duration = Duration::from_secs(1);

thread_local! {
    static LANES: RefCell<Vec<Rc<Lane>>> = const { RefCell::new(Vec::new()) };
    static SWEEPING: Cell<bool> = const { Cell::new(false) };
}

pub(super) struct Lane {
    pub(super) url: ServerUrl,
    pub(super) addr: SocketAddr,
    /// The record of the newest configuration: its health is the one that is kept up.
    server: RefCell<Arc<Server>>,
    /// How many configurations of this thread have it; 0: its connections are not kept.
    listed: Cell<usize>,
    /// `upstream/address:port`. Of this thread's own, so that threads do not share its count.
    pub(super) label: Label,
    pub(super) h2c: Carriers,
    limit: Arc<Limit>,
    ca: Option<Vec<CertificateDer<'static>>>,
    idle: RefCell<Vec<Idle>>,
    outstanding: Cell<usize>,
    failed: Cell<Option<Instant>>,
}

struct Idle {
    conn: Connection,
    since: Instant,
    until: Instant,
}

impl Lane {
    /// This thread's lane to `server`; the one of an earlier configuration if nothing about it has changed.
    pub(super) fn of(group: &Group, server: &Arc<Server>) -> Rc<Self> {
        LANES.with_borrow_mut(|lanes| {
            lanes.retain(|lane| Rc::strong_count(lane) > 1 || !lane.idle.borrow().is_empty());
            if let Some(same) = lanes.iter().find(|lane| lane.serves(group, server)) {
                same.server.replace(server.clone());
                return same.clone();
            }
            let url = &server.url;
            let lane = Rc::new(Self {
                url: url.clone(),
                addr: server.addr,
                server: RefCell::new(server.clone()),
                listed: Cell::new(0),
                label: server.label(&group.settings.name),
                h2c: Carriers::default(),
                limit: group.limit.clone(),
                ca: group.settings.ca.clone(),
                idle: RefCell::default(),
                outstanding: Cell::new(0),
                failed: Cell::new(None),
            });
            lanes.push(lane.clone());
            lane
        })
    }

    fn serves(&self, group: &Group, server: &Arc<Server>) -> bool {
        self.url == server.url
            && self.addr == server.addr
            && Arc::ptr_eq(&self.limit, &group.limit)
            && self.ca == group.settings.ca
    }

    /// A configuration, or the newest answer for a name, has it.
    pub(super) fn list(&self) {
        self.listed.set(self.listed.get() + 1);
    }

    /// One has it no more. With the last, what is idle is closed; what is under way ends undisturbed.
    pub(super) fn unlist(&self) {
        self.listed.set(self.listed.get().saturating_sub(1));
        if self.listed.get() == 0 {
            self.idle.borrow_mut().clear();
            self.h2c.clear();
        }
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.server.borrow().is_healthy()
    }

    pub(super) fn place(&self, now: Instant) -> Place {
        self.server.borrow().standing.place(now)
    }

    pub(super) fn claim(&self, now: Instant, trial: Duration) -> bool {
        self.server.borrow().standing.claim(now, trial)
    }

    pub(super) fn takes_part(&self, now: Instant, dice: u8) -> bool {
        self.server.borrow().standing.takes_part(now, dice)
    }

    pub(super) fn answered(&self) {
        self.server.borrow().standing.succeeded();
    }

    /// Whether its server is ejected for it.
    pub(super) fn failed(&self, group: &Group) -> bool {
        group.failed(&self.server.borrow())
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.get()
    }

    /// Whether it could not be reached a moment ago.
    pub(super) fn is_shunned(&self, now: Instant) -> bool {
        self.failed.get().is_some_and(|at| now.saturating_duration_since(at) < SHUNNED)
    }

    pub(super) fn connect_failed(&self) {
        self.failed.set(Some(monotonic()));
    }

    pub(super) fn connected(&self) {
        self.failed.set(None);
    }

    /// The connection that was used last and is still good.
    pub(super) fn checkout(&self, now: Instant) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { conn, since, until }) = idle.pop() {
            let just_used = now.saturating_duration_since(since) < JUST_USED;
            if until > now && conn.is_fresh(just_used) {
                return Some(conn);
            }
        }
        None
    }

    /// Keeps a connection for the next request. `keep_alive` is what the server said, or the largest value.
    pub(super) fn put_back(&self, mut conn: Connection, keep_alive: Duration) {
        let wait = match keep_alive {
            Duration::MAX => IDLE,
            said => said.saturating_sub(MARGIN).min(IDLE_MAX),
        };
        if wait.is_zero() || self.limit.is_wanted() || self.listed.get() == 0 {
            return;
        }
        conn.rest();
        let since = monotonic();
        self.idle.borrow_mut().push(Idle { conn, since, until: since + wait });
        sweep_soon();
    }

    fn sweep(&self, now: Instant) -> usize {
        if self.limit.is_wanted() {
            self.give_up();
        }
        let mut idle = self.idle.borrow_mut();
        idle.retain(|i| i.until > now);
        idle.len() + self.h2c.sweep(now, IDLE_MAX)
    }

    /// Closes what is idle.
    fn give_up(&self) {
        self.idle.borrow_mut().clear();
        self.h2c.sweep(monotonic(), Duration::ZERO);
    }
}

/// Gives up what this thread keeps idle under `limit`.
pub(super) fn give_up(limit: &Arc<Limit>) {
    LANES.with_borrow(|lanes| {
        lanes.iter().filter(|lane| Arc::ptr_eq(&lane.limit, limit)).for_each(|lane| lane.give_up());
    });
}

/// To be called when there is something that may become idle.
pub(super) fn sweep_soon() {
    if !SWEEPING.replace(true) {
        tokio::task::spawn_local(sweep());
    }
}

/// Closes what has been idle for too long. Ends when nothing can be.
async fn sweep() {
    let mut next = Deadline::default();
    loop {
        next.arm(SWEEP);
        next.passed().await;
        let now = monotonic();
        let left: usize = LANES.with_borrow(|lanes| lanes.iter().map(|lane| lane.sweep(now)).sum());
        if left == 0 {
            SWEEPING.set(false);
            return;
        }
    }
}

/// One request of this thread at a server, until [`Load::end`] or dropped.
pub(super) struct Load(Option<Rc<Lane>>);

impl Load {
    pub(super) fn on(lane: &Rc<Lane>) -> Self {
        lane.outstanding.set(lane.outstanding.get() + 1);
        Self(Some(lane.clone()))
    }

    /// Counted by another from here on.
    pub(super) fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    pub(super) fn end(&mut self) {
        if let Some(lane) = self.0.take() {
            lane.outstanding.set(lane.outstanding.get().saturating_sub(1));
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}
