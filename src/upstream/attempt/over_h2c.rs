//! A permitted request to a group of h2c servers: as over HTTP/1.1, but one connection carries many, and a server may say of
//! a stream that it did not look at it.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use std::io;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::super::body::UpstreamBody;
use super::super::carriers::{Refusal, Seat};
use super::super::h2c::{self, H2cBody, H2cFault, H2cSender, OutBody};
use super::super::pool::{self, Lane, Load};
use super::super::retry::Tried;
use super::super::stream::Stream;
use super::super::{ForwardError, UpstreamContext};
use super::{Ask, LocalGroup, NoConnection};
use crate::clock::monotonic;

/// The result of a try that the server did not look at.
const REFUSED: &str = "refused";

/// How many connections of one server may have ended while a request was on its way to it.
const RENEWALS: u32 = 3;

/// How long a request that could go over a crowded connection waits for a further one.
const FURTHER: Duration = Duration::from_millis(500);

impl Ask<'_> {
    /// A server that has enough to do is not one that fails.
    fn note_refused(&self, lane: &Lane) {
        if let Some(exchange) = self.exchange {
            exchange.server_failed(&lane.label, REFUSED, false);
        }
    }
}

impl LocalGroup {
    pub(super) async fn send_h2c<B>(
        &self,
        ask: &Ask<'_>,
        body: B,
    ) -> Result<Response<UpstreamBody<B>>, ForwardError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        let is_bodiless = body.is_end_stream();
        let mut request = h2c_request(ask, body)?;
        let (mut watch, mut tried, mut renewed) = (ask.watch(), Tried::default(), 0);
        loop {
            let lane = self.pick(&mut tried, monotonic())?;
            let load = Load::on(&lane);
            let (seat, is_reused) = match self.h2c_seat(&lane, ask.context).await {
                Ok(seat) => seat,
                Err(NoConnection::Busy) => return Err(ForwardError::Busy),
                Err(NoConnection::Failed(e)) => {
                    self.failed(ask, &mut tried, &lane, e)?;
                    continue;
                }
            };
            let sent = monotonic();
            match h2c::send(&mut seat.sender(), request, self.limits(ask.context), &mut watch).await {
                Ok(answer) => {
                    seat.answered();
                    ask.note_answer(&lane, Some(sent));
                    let (parts, incoming) = answer.into_parts();
                    let mut response =
                        Response::new(UpstreamBody::h2c(H2cBody::new(incoming, watch, (load, seat))));
                    *response.status_mut() = parts.status;
                    *response.headers_mut() = h2c::answer_headers(parts.headers);
                    return Ok(response);
                }
                Err(H2cFault::GivenUp(e)) => {
                    ask.note_failure((&lane, &self.shared), &e, true);
                    return Err(e);
                }
                Err(H2cFault::Failed(e)) => {
                    if matches!(e, ForwardError::Timeout) || !seat.has_answered() {
                        // Perhaps nobody is there any more: the next request has a connection of its own.
                        lane.h2c.leave(&seat);
                    }
                    ask.note_failure((&lane, &self.shared), &e, false);
                    return Err(e);
                }
                Err(H2cFault::Refused) => {
                    ask.note_refused(&lane);
                    // A body has gone with the first try.
                    if !is_bodiless || self.next_is_none(ask, &mut tried, &lane) {
                        return Err(ForwardError::Busy);
                    }
                    request = h2c_request(ask, http_body_util::Empty::<Bytes>::new())?;
                }
                // A connection that ended meanwhile says nothing of its server.
                Err(H2cFault::GoneAway) if is_bodiless && renewed < RENEWALS => {
                    lane.h2c.leave(&seat);
                    renewed += 1;
                    request = h2c_request(ask, http_body_util::Empty::<Bytes>::new())?;
                }
                Err(H2cFault::GoneAway) => {
                    lane.h2c.leave(&seat);
                    return Err(ForwardError::Busy);
                }
                Err(H2cFault::Unsent(back)) if is_reused && renewed < RENEWALS => {
                    lane.h2c.leave(&seat);
                    renewed += 1;
                    request = *back;
                }
                Err(H2cFault::Unsent(back)) => {
                    lane.h2c.leave(&seat);
                    request = *back;
                    self.failed(ask, &mut tried, &lane, io::ErrorKind::ConnectionAborted.into())?;
                }
            }
        }
    }

    /// On an open connection (`true`), or a new one where all have as much as they may.
    async fn h2c_seat(&self, lane: &Lane, context: &UpstreamContext) -> Result<(Seat, bool), NoConnection> {
        loop {
            if let Some(seat) = lane.h2c.seat() {
                return Ok((seat, true));
            }
            if lane.h2c.crowded().is_some() {
                match self.h2c_beside(lane, context).await {
                    Some(seat) => return Ok((seat, true)),
                    None => continue,
                }
            }
            let waits = self.shared.limit.waits_for_a_turn(self.shared.settings.max_pending);
            let _waits = waits.ok_or(NoConnection::Busy)?;
            let Some(turn) = lane.h2c.turn().await? else { continue };
            let opened = match self.slot().await {
                Some(slot) => self.open_h2c(lane, context, slot).await.map(|(sender, _)| sender),
                None => Err(NoConnection::Busy),
            };
            return match opened {
                Ok(sender) => Ok((seated(lane, sender), false)),
                Err(none) => {
                    turn.failed(none.refusal());
                    Err(none)
                }
            };
        }
    }

    /// On a further connection, if one is to be had soon; else on the one that is least crowded, while there is any. What goes
    /// wrong with a further one says nothing of the server: it serves over the others.
    async fn h2c_beside(&self, lane: &Lane, context: &UpstreamContext) -> Option<Seat> {
        // Only of plenty: other threads and servers need one each.
        while lane.h2c.may_add(monotonic()) && self.shared.limit.has_plenty() {
            if let Ok(Some(_turn)) = lane.h2c.turn().await {
                let Some(slot) = self.shared.limit.try_slot() else { break };
                let opening = async {
                    let (sender, heard) = self.open_h2c(lane, context, slot).await.ok()?;
                    // Many are about to be put on it: there is somebody.
                    heard.await.ok().map(|()| sender)
                };
                if let Ok(Some(sender)) = tokio::time::timeout(FURTHER, opening).await {
                    return Some(seated(lane, sender));
                }
                lane.connected();
                lane.h2c.make_do();
            } else if let Some(seat) = lane.h2c.seat() {
                return Some(seat);
            }
        }
        lane.h2c.crowded()
    }

    async fn open_h2c(
        &self,
        lane: &Lane,
        context: &UpstreamContext,
        slot: OwnedSemaphorePermit,
    ) -> Result<(H2cSender, oneshot::Receiver<()>), NoConnection> {
        let Stream::Tcp(tcp) = self.connect(lane, context).await? else {
            return Err(NoConnection::Failed(io::ErrorKind::Unsupported.into()));
        };
        h2c::open(tcp, slot).await.map_err(NoConnection::Failed)
    }
}

fn seated(lane: &Lane, sender: H2cSender) -> Seat {
    let seat = lane.h2c.add(sender);
    pool::sweep_soon();
    seat
}

impl NoConnection {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Busy => Refusal::Busy,
            Self::Failed(e) => Refusal::Failed(e.kind()),
        }
    }
}

impl From<Refusal> for NoConnection {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Busy => Self::Busy,
            Refusal::Failed(kind) => Self::Failed(kind.into()),
        }
    }
}

/// The request as an h2c server gets it.
fn h2c_request<B>(ask: &Ask<'_>, body: B) -> Result<Request<OutBody>, ForwardError>
where
    B: Body<Data = Bytes> + 'static,
{
    let (policy, quiet) = (ask.policy.clone(), ask.context.body_timeout);
    let out = OutBody::new((body, ask.version), policy, ask.exchange.cloned(), quiet);
    let request = h2c::request(&ask.target, (&**ask.policy, &ask.onward), out);
    request.ok_or(ForwardError::RequestBody)
}
