//! Ports that no other test of this run has, in this process or another.

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
/// port, which nothing else wants, for as long as this value lives.
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
        let claim = UdpSocket::bind(("127.0.0.1", 0))?;
        let addr = claim.local_addr()?;
        drop(TcpListener::bind(addr)?);
        Ok(Self { addr, _claim: claim })
    }
}
