//! A permitted request to a group of h2c servers: as over HTTP/1.1, but one connection carries many, and a server may say of
//! a stream that it did not look at it.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use std::io;

use super::super::body::UpstreamBody;
use super::super::h2c::{self, H2cBody, H2cFault, H2cSender, OutBody};
use super::super::pool::{Lane, Load};
use super::super::retry::Tried;
use super::super::stream::Stream;
use super::super::{ForwardError, UpstreamContext};
use super::{Ask, LocalGroup, NoConnection};
use crate::clock::monotonic;

/// The result of a try that the server did not look at.
const REFUSED: &str = "refused";

/// How many connections of one server may have ended while a request was on its way to it.
const RENEWALS: u32 = 3;

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
            let (mut sender, is_reused) = match self.h2c_sender(&lane, ask.context).await {
                Ok(sender) => sender,
                Err(NoConnection::Busy) => return Err(ForwardError::Busy),
                Err(NoConnection::Failed(e)) => {
                    self.failed(ask, &mut tried, &lane, e)?;
                    continue;
                }
            };
            let sent = monotonic();
            match h2c::send(&mut sender, request, self.limits(ask.context), &mut watch).await {
                Ok(answer) => {
                    ask.note_answer(&lane, Some(sent));
                    let (parts, incoming) = answer.into_parts();
                    let mut response = Response::new(UpstreamBody::h2c(H2cBody { incoming, watch, load }));
                    *response.status_mut() = parts.status;
                    *response.headers_mut() = h2c::answer_headers(parts.headers);
                    return Ok(response);
                }
                Err(H2cFault::GivenUp(e)) => {
                    ask.note_failure((&lane, &self.shared), &e, true);
                    return Err(e);
                }
                Err(H2cFault::Failed(e)) => {
                    if matches!(e, ForwardError::Timeout) {
                        // Perhaps nobody is there any more: the next request has a connection of its own.
                        lane.h2c.replace(None);
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
                    lane.h2c.replace(None);
                    renewed += 1;
                    request = h2c_request(ask, http_body_util::Empty::<Bytes>::new())?;
                }
                Err(H2cFault::GoneAway) => {
                    lane.h2c.replace(None);
                    return Err(ForwardError::Busy);
                }
                Err(H2cFault::Unsent(back)) if is_reused && renewed < RENEWALS => {
                    lane.h2c.replace(None);
                    renewed += 1;
                    request = *back;
                }
                Err(H2cFault::Unsent(back)) => {
                    lane.h2c.replace(None);
                    request = *back;
                    self.failed(ask, &mut tried, &lane, io::ErrorKind::ConnectionAborted.into())?;
                }
            }
        }
    }

    /// An open connection (`true`), or a new one.
    async fn h2c_sender(
        &self,
        lane: &Lane,
        context: &UpstreamContext,
    ) -> Result<(H2cSender, bool), NoConnection> {
        let known = lane.h2c.borrow().clone();
        if let Some(sender) = known.filter(|s| !s.is_closed()) {
            return Ok((sender, true));
        }
        let slot = self.slot().await.ok_or(NoConnection::Busy)?;
        let Stream::Tcp(tcp) = self.connect(lane, context).await? else {
            return Err(NoConnection::Failed(io::ErrorKind::Unsupported.into()));
        };
        let sender = h2c::open(tcp, slot).await.map_err(NoConnection::Failed)?;
        lane.h2c.replace(Some(sender.clone()));
        Ok((sender, false))
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
