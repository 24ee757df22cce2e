//! Connections to one h2c server: each carries many requests, but a server takes only so many at once, and what is too much
//! for one goes over another.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

use super::h2c::H2cSender;
use crate::clock::monotonic;

/// As many as every server is advised to take (RFC 9113 section 6.5.2); what it allows beyond is not told by hyper.
const MAX_STREAMS: usize = 100;

/// How long no further connection is tried after one that could not be had.
const MAKE_DO: Duration = Duration::from_secs(1);

/// Those of one thread to one server.
#[derive(Default)]
pub(super) struct Carriers {
    open: RefCell<Vec<Rc<Carrier>>>,
    /// Whoever opens one holds the other end.
    opening: RefCell<Option<watch::Receiver<Option<Refusal>>>>,
    /// When a further one could not be had.
    alone: Cell<Option<Instant>>,
}

/// Why a connection could not be opened.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    Busy,
    Failed(io::ErrorKind),
}

/// To open a connection, for all who wait for one; they are called when this is dropped.
pub(super) struct Turn(watch::Sender<Option<Refusal>>);

impl Turn {
    /// Those who wait shall not try it one after the other.
    pub(super) fn failed(self, why: Refusal) {
        self.0.send_replace(Some(why));
    }
}

struct Carrier {
    sender: H2cSender,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
    /// Its server has said something there.
    has_answered: Cell<bool>,
}

/// One request's place on a connection, until dropped.
pub(super) struct Seat(Rc<Carrier>);

impl Carriers {
    /// On the first connection that has room.
    pub(super) fn seat(&self) -> Option<Seat> {
        let mut carriers = self.open.borrow_mut();
        carriers.retain(|carrier| !carrier.sender.is_closed());
        carriers.iter().find(|carrier| carrier.streams.get() < MAX_STREAMS).map(Seat::on)
    }

    /// On the one that has the fewest requests, for when there may be no other.
    pub(super) fn crowded(&self) -> Option<Seat> {
        let carriers = self.open.borrow();
        let open = carriers.iter().filter(|carrier| !carrier.sender.is_closed());
        open.min_by_key(|carrier| carrier.streams.get()).map(Seat::on)
    }

    /// A further connection could not be had: those that are open have to do for a while.
    pub(super) fn make_do(&self) {
        self.alone.set(Some(monotonic()));
    }

    /// Whether a further connection may be tried.
    pub(super) fn may_add(&self, now: Instant) -> bool {
        self.alone.get().is_none_or(|at| now.saturating_duration_since(at) >= MAKE_DO)
    }

    /// The turn to open another. None: somebody has had it meanwhile, and what has come of that is to be looked at.
    pub(super) async fn turn(&self) -> Result<Option<Turn>, Refusal> {
        let opening = self.opening.borrow().clone().filter(|opening| opening.has_changed().is_ok());
        let Some(mut opening) = opening else {
            let (turn, waited_for) = watch::channel(None);
            self.opening.replace(Some(waited_for));
            return Ok(Some(Turn(turn)));
        };
        match opening.wait_for(Option::is_some).await {
            Ok(refused) => refused.map_or(Ok(None), Err),
            Err(_) => Ok(None),
        }
    }

    /// The first one on a new connection.
    pub(super) fn add(&self, sender: H2cSender) -> Seat {
        let (streams, idle_since) = (Cell::new(0), Cell::new(monotonic()));
        let carrier = Rc::new(Carrier { sender, streams, idle_since, has_answered: Cell::new(false) });
        let seat = Seat::on(&carrier);
        self.open.borrow_mut().push(carrier);
        seat
    }

    /// Nothing more is to be sent over the connection of this seat; what is under way goes on.
    pub(super) fn leave(&self, seat: &Seat) {
        let mut carriers = self.open.borrow_mut();
        carriers.retain(|carrier| !Rc::ptr_eq(carrier, &seat.0));
        if !seat.0.has_answered.get() && !carriers.is_empty() {
            self.make_do();
        }
    }

    /// As [`Carriers::leave`], of all.
    pub(super) fn clear(&self) {
        self.open.borrow_mut().clear();
    }

    /// Closes those without a request for `idle`; how many are left.
    pub(super) fn sweep(&self, now: Instant, idle: Duration) -> usize {
        let mut carriers = self.open.borrow_mut();
        carriers.retain(|carrier| {
            let since = carrier.idle_since.get();
            carrier.streams.get() > 0 || now.saturating_duration_since(since) < idle
        });
        carriers.len()
    }
}

impl Seat {
    fn on(carrier: &Rc<Carrier>) -> Self {
        carrier.streams.set(carrier.streams.get() + 1);
        Self(Rc::clone(carrier))
    }

    pub(super) fn has_answered(&self) -> bool {
        self.0.has_answered.get()
    }

    pub(super) fn answered(&self) {
        self.0.has_answered.set(true);
    }

    pub(super) fn sender(&self) -> H2cSender {
        self.0.sender.clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let left = self.0.streams.get().saturating_sub(1);
        self.0.streams.set(left);
        if left == 0 {
            self.0.idle_since.set(monotonic());
        }
    }
}
