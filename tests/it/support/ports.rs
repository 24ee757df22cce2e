//! Ports that no other test of this run has, in this process or another.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use tokio::net::TcpStream;

/// A connection to whoever listens there. While nobody does, the kernel may choose that very port for our own end, and
/// connect us with ourselves: that is none.
pub async fn connected(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    if stream.local_addr()? == addr { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(stream) }
}

/// A TCP port of the loopback address kept for one gateway.
///
/// The binary must be told its addresses, so a port has to be found before it starts; and since it listens with
/// `SO_REUSEPORT`, two gateways given the same number would silently share it. The number is therefore held as a UDP
/// port, which nothing else wants, for as long as this value lives. It is none of those that the kernel gives to
/// connections: one of another test would have it while a gateway is away to be started again.
#[derive(Debug)]
pub struct Port {
    addr: SocketAddr,
    _claim: UdpSocket,
}

impl Port {
    /// A port that nothing listens on.
    pub fn claim() -> Self {
        for _ in 0..200 {
            if let Ok(port) = Self::attempt() {
                return port;
            }
        }
        panic!("no free port in 200 attempts");
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn attempt() -> io::Result<Self> {
        let claim = UdpSocket::bind(("127.0.0.1", candidate()))?;
        let addr = claim.local_addr()?;
        drop(TcpListener::bind(addr)?);
        Ok(Self { addr, _claim: claim })
    }
}

/// Any port below those of connections; 0, any at all, where there are few of them.
fn candidate() -> u16 {
    const FIRST: u16 = 10_000;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(0);
    let Some(count) = u16::checked_sub(end, FIRST).filter(|count| *count > 5_000) else { return 0 };
    let random = RandomState::new().hash_one(0) % u64::from(count);
    FIRST + u16::try_from(random).expect("less than a port")
}
