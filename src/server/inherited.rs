//! Sockets that the service manager has bound for us (systemd's socket activation, `sd_listen_fds(3)`). It keeps them
//! open, so that who connects while no gateway runs waits for the next one.
//!
//! A socket's name is its listener's key in `[listen]`. What is told of them in the environment is read once, and
//! never believed of another process.

use listenfd::ListenFd;
use socket2::SockRef;
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Why the sockets handed over cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritedFault {
    #[error("{fds} sockets were handed over and {names} names for them (LISTEN_FDS, LISTEN_FDNAMES)")]
    Names { fds: usize, names: usize },
    #[error("the socket \"{name}\" that was handed over: {source}")]
    Socket { name: String, source: io::Error },
    #[error("the socket \"{name}\" that was handed over does not listen for TCP connections")]
    Deaf { name: String },
    #[error(
        "the socket \"{name}\" that was handed over listens on {found}, but listen.{name} is {wanted}; \
         write the same address in both places"
    )]
    Elsewhere { name: String, found: SocketAddr, wanted: SocketAddr },
    #[error(
        "a socket named \"{name}\" was handed over, but there is no listen.{name} in the configuration; \
         FileDescriptorName= of the socket unit is to be the key of a listener that is configured"
    )]
    Unwanted { name: String },
}

impl From<InheritedFault> for io::Error {
    fn from(fault: InheritedFault) -> Self {
        Self::new(io::ErrorKind::InvalidInput, fault)
    }
}

/// The sockets that were handed over and are nobody's yet.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(String, TcpListener)>,
}

impl Inherited {
    /// What was handed over to this process. To be called once, before there are other threads: it takes variables out
    /// of the environment.
    ///
    /// # Errors
    /// A descriptor without a name, or one that is no listening TCP socket.
    pub fn from_process() -> Result<Self, InheritedFault> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        // The crate would take them without LISTEN_PID too.
        if variable("LISTEN_PID") != std::process::id().to_string() {
            return Ok(Self::default());
        }
        let names = variable("LISTEN_FDNAMES");
        let mut fds = ListenFd::from_env();
        let names = names_of(&names, fds.len())?;
        let mut sockets = Vec::with_capacity(names.len());
        for (index, name) in names.into_iter().enumerate() {
            match fds.take_tcp_listener(index) {
                Ok(Some(socket)) if SockRef::from(&socket).is_listener().unwrap_or(false) => {
                    sockets.push((name, socket));
                }
                Ok(_) => return Err(InheritedFault::Deaf { name }),
                Err(source) => return Err(InheritedFault::Socket { name, source }),
            }
        }
        Ok(Self { sockets })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// The sockets for the listener of this name; none were handed over when there are none.
    ///
    /// # Errors
    /// One of them listens elsewhere.
    pub fn take(&mut self, name: &str, wanted: SocketAddr) -> Result<Vec<TcpListener>, InheritedFault> {
        let (taken, left) = self.sockets.drain(..).partition(|(other, _)| other == name);
        self.sockets = left;
        let check = |(name, socket): (String, TcpListener)| match socket.local_addr() {
            Ok(found) if found == wanted => Ok(socket),
            Ok(found) => Err(InheritedFault::Elsewhere { name, found, wanted }),
            Err(source) => Err(InheritedFault::Socket { name, source }),
        };
        Vec::into_iter(taken).map(check).collect()
    }

    /// Once all listeners have taken theirs.
    ///
    /// # Errors
    /// A socket is left that no listener wants: its connections would never be answered.
    pub fn finish(self) -> Result<(), InheritedFault> {
        match self.sockets.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(InheritedFault::Unwanted { name }),
        }
    }
}

/// `LISTEN_FDNAMES`: one for each descriptor, with colons between them.
fn names_of(names: &str, fds: usize) -> Result<Vec<String>, InheritedFault> {
    let listed: Vec<String> = names.split(':').filter(|_| !names.is_empty()).map(str::to_owned).collect();
    if listed.len() == fds { Ok(listed) } else { Err(InheritedFault::Names { fds, names: listed.len() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed_over(names: &[&str]) -> Inherited {
        let bind = |name: &&str| ((*name).to_owned(), TcpListener::bind("127.0.0.1:0").unwrap());
        Inherited { sockets: names.iter().map(bind).collect() }
    }

    fn address(inherited: &Inherited, index: usize) -> SocketAddr {
        inherited.sockets[index].1.local_addr().unwrap()
    }

    #[test]
    fn each_descriptor_has_a_name() {
        assert_eq!(names_of("https:admin", 2).unwrap(), ["https", "admin"]);
        assert_eq!(names_of("https::http", 3).unwrap(), ["https", "", "http"]);
        assert!(names_of("", 0).unwrap().is_empty());
        for (names, fds) in [("", 1), ("https", 2), ("https:http", 1)] {
            assert!(matches!(names_of(names, fds), Err(InheritedFault::Names { .. })), "{names:?} {fds}");
        }
    }

    #[test]
    fn a_listener_takes_the_sockets_of_its_name() {
        let mut inherited = handed_over(&["https", "admin"]);
        let (https, admin) = (address(&inherited, 0), address(&inherited, 1));
        assert_eq!(inherited.take("https", https).unwrap()[0].local_addr().unwrap(), https);
        assert!(inherited.take("https", https).unwrap().is_empty());
        assert!(inherited.take("http", https).unwrap().is_empty());
        assert_eq!(inherited.take("admin", admin).unwrap().len(), 1);
        inherited.finish().unwrap();
    }

    #[test]
    fn one_that_listens_elsewhere_is_refused_with_both_addresses() {
        let mut inherited = handed_over(&["http"]);
        let found = address(&inherited, 0).to_string();
        let told = inherited.take("http", "127.0.0.1:1".parse().unwrap()).unwrap_err().to_string();
        assert!(
            told.contains("listen.http") && told.contains(&found) && told.contains("127.0.0.1:1"),
            "{told}"
        );
    }

    #[test]
    fn one_that_nobody_wants_is_refused_by_name() {
        let told = handed_over(&["postern.socket"]).finish().unwrap_err().to_string();
        assert!(told.contains("postern.socket") && told.contains("FileDescriptorName="), "{told}");
    }

    /// The tests' own process has none.
    #[test]
    fn another_process_s_sockets_are_left_alone() {
        Inherited::from_process().unwrap().finish().unwrap();
    }
}
