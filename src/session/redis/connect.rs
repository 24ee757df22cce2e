//! Connections to Redis, however it stands: one server, the master that Sentinels name, a cluster.

use futures_util::future::try_join_all;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{
    Arg, AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, RedisConnectionInfo, RedisError, Role, TlsCertificates, Value, cmd,
};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

use super::wire;
use crate::secret::{ExposeSecret, SecretString};

/// `[sessions.redis]`
#[derive(Clone, Debug)]
pub struct RedisSettings {
    pub place: Place,
    pub username: Option<String>,
    pub password: Option<SecretString>,
    /// PEM; with it Sentinels and clusters are reached by TLS too.
    pub ca: Option<String>,
    pub max_stale: Duration,
    pub local_logins: bool,
}

/// Where Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    One { is_tls: bool, host: String, port: u16, database: u16 },
    Sentinel { master: String, nodes: Vec<(String, u16)> },
    Cluster(Vec<(String, u16)>),
}

/// How long a connection may take to be made, its greeting included.
const CONNECT: Duration = Duration::from_secs(1);
/// How long an answer may take.
pub(super) const ANSWER: Duration = Duration::from_secs(1);
/// How long a Sentinel may take: another is asked then.
const SENTINEL: Duration = Duration::from_millis(500);

/// What went wrong, for people.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Fault(pub(super) String);

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        let hint = match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
                "; see sessions.redis.username and password_file"
            }
            (_, Some("NOPERM")) => {
                "; give the user what the README lists (keys postern:*, commands @read @write @connection and more)"
            }
            _ => "",
        };
        Self(format!("{error}{hint}"))
    }
}

impl From<tokio::time::error::Elapsed> for Fault {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self("does not answer".to_owned())
    }
}

/// A connection, or those to the nodes of a cluster. Clones are the same.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// `answer` bounds how long each answer may take.
    pub(super) async fn open(settings: &RedisSettings, answer: Duration) -> Result<(Self, Server), Fault> {
        match &settings.place {
            Place::One { is_tls, host, port, database } => {
                let addr = address((host.clone(), *port), *is_tls);
                let made = open_one(settings, addr, i64::from(*database), answer).await?;
                Ok((Self::One(made), Server::Only))
            }
            Place::Sentinel { master, nodes } => {
                let (host, port) = master_of(settings, master, nodes).await?;
                let addr = address((host.clone(), port), settings.ca.is_some());
                let mut made = open_one(settings, addr, 0, answer).await?;
                must_be_master(&mut made).await?;
                Ok((Self::One(made), Server::Master(host, port)))
            }
            Place::Cluster(nodes) => {
                Ok((Self::Cluster(open_cluster(settings, nodes, answer).await?), Server::Cluster))
            }
        }
    }

    pub(super) async fn ask<T: FromRedisValue>(&mut self, cmd: &Cmd) -> Result<T, RedisError> {
        match self {
            Self::One(one) => cmd.query_async(one).await,
            Self::Cluster(cluster) => cmd.query_async(cluster).await,
        }
    }

    /// All of them in one go; those of one slot are done in order, which without a cluster are all.
    pub(super) async fn all(&mut self, cmds: Vec<Cmd>) -> Result<Vec<Value>, RedisError> {
        if cmds.is_empty() {
            return Ok(Vec::new());
        }
        match self {
            Self::One(one) => {
                let mut pipeline = redis::pipe();
                for cmd in cmds {
                    pipeline.add_command(cmd);
                }
                pipeline.query_async(one).await
            }
            Self::Cluster(cluster) => by_slot(cluster, cmds).await,
        }
    }

    /// Of the node that has this key, which is the only one outside of a cluster.
    pub(super) async fn ask_node_of<T: FromRedisValue>(
        &mut self,
        key: &[u8],
        asked: Cmd,
    ) -> Result<T, RedisError> {
        self.ask_master(wire::slot(key), asked).await
    }

    /// A slot of each master, which one is reached by: a node may tell no address (CLUSTER SLOTS), as where it is alone or
    /// behind a translated one. Of one server any slot.
    pub(super) async fn masters(&mut self) -> Result<Vec<u16>, RedisError> {
        let Self::Cluster(_) = self else { return Ok(vec![0]) };
        // A range of slots: first, last, then the nodes, the master first: address, port, id.
        let ranges: Vec<Vec<Value>> = self.ask(cmd("CLUSTER").arg("SLOTS")).await?;
        let mut masters = BTreeMap::new();
        for range in ranges {
            let [first, _, master, ..] = range.as_slice() else { continue };
            if let Some(id) = Vec::<Value>::from_redis_value(master.clone())?.into_iter().nth(2) {
                masters.insert(String::from_redis_value(id)?, u16::from_redis_value(first.clone())?);
            }
        }
        Ok(masters.into_values().collect())
    }

    /// Of one of [`Connection::masters`].
    pub(super) async fn ask_master<T: FromRedisValue>(
        &mut self,
        slot: u16,
        asked: Cmd,
    ) -> Result<T, RedisError> {
        match self {
            Self::One(one) => asked.query_async(one).await,
            Self::Cluster(cluster) => {
                let node = SingleNodeRoutingInfo::SpecificNode(Route::new(slot, SlotAddr::Master));
                Ok(T::from_redis_value(cluster.route_command(asked, RoutingInfo::SingleNode(node)).await?)?)
            }
        }
    }
}

/// A trip a slot, all at once. What is of one session or one name is of one key, so nobody needs an order between slots.
async fn by_slot(cluster: &ClusterConnection, cmds: Vec<Cmd>) -> Result<Vec<Value>, RedisError> {
    let mut answers = vec![Value::Nil; cmds.len()];
    let mut slots: BTreeMap<u16, (Vec<usize>, redis::Pipeline)> = BTreeMap::new();
    for (at, cmd) in cmds.into_iter().enumerate() {
        let slot = match cmd.args_iter().nth(1) {
            Some(Arg::Simple(key)) => wire::slot(key),
            _ => 0,
        };
        let (places, pipeline) = slots.entry(slot).or_default();
        places.push(at);
        pipeline.add_command(cmd);
    }
    let trips = slots.into_values().map(|(places, pipeline)| {
        let mut cluster = cluster.clone();
        async move {
            let values: Vec<Value> = pipeline.query_async(&mut cluster).await?;
            Ok::<_, RedisError>(places.into_iter().zip(values))
        }
    });
    for (at, value) in try_join_all(trips).await?.into_iter().flatten() {
        if let Some(answer) = answers.get_mut(at) {
            *answer = value;
        }
    }
    Ok(answers)
}

/// Which server a connection was made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Only,
    Master(String, u16),
    Cluster,
}

impl Server {
    /// Whether what was written must be on a second server before it is answered: one of them takes over.
    pub(super) fn is_replicated(&self) -> bool {
        *self != Self::Only
    }
}

/// Fails when it is a master no more, or another is by the Sentinels.
pub(super) async fn still_master(
    settings: &RedisSettings,
    connection: &mut Connection,
    server: &Server,
) -> Result<(), Fault> {
    match connection {
        Connection::Cluster(_) => return Ok(()),
        Connection::One(one) => must_be_master(one).await?,
    }
    if let (Place::Sentinel { master, nodes }, Server::Master(host, port)) = (&settings.place, server)
        && let Ok(now) = master_of(settings, master, nodes).await
        && (&now.0, now.1) != (host, *port)
    {
        return Err(Fault(format!("{}:{} is the master now", now.0, now.1)));
    }
    Ok(())
}

async fn must_be_master(one: &mut MultiplexedConnection) -> Result<(), Fault> {
    match cmd("ROLE").query_async(one).await? {
        Role::Primary { .. } => Ok(()),
        _ => Err(Fault("is no master".to_owned())),
    }
}

fn address((host, port): (String, u16), is_tls: bool) -> ConnectionAddr {
    if is_tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

fn info(settings: &RedisSettings, addr: ConnectionAddr, database: i64) -> Result<ConnectionInfo, RedisError> {
    let mut login =
        RedisConnectionInfo::default().set_db(database).set_lib_name("postern", env!("CARGO_PKG_VERSION"));
    if let Some(password) = &settings.password {
        login = login.set_password(password.expose_secret());
        if let Some(username) = &settings.username {
            login = login.set_username(username);
        }
    }
    Ok(addr.into_connection_info()?.set_redis_settings(login))
}

async fn open_one(
    settings: &RedisSettings,
    addr: ConnectionAddr,
    database: i64,
    answer: Duration,
) -> Result<MultiplexedConnection, Fault> {
    let info = info(settings, addr, database)?;
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(answer));
    let client = match &settings.ca {
        Some(ca) => {
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca.clone().into_bytes()) };
            Client::build_with_tls(info, certificates)?
        }
        None => Client::open(info)?,
    };
    // The library's own limit covers the connection, not each step of the greeting.
    Ok(timeout(2 * CONNECT, client.get_multiplexed_async_connection_with_config(&config)).await??)
}

async fn open_cluster(
    settings: &RedisSettings,
    nodes: &[(String, u16)],
    answer: Duration,
) -> Result<ClusterConnection, Fault> {
    let infos: Result<Vec<_>, _> =
        nodes.iter().map(|node| info(settings, address(node.clone(), settings.ca.is_some()), 0)).collect();
    let mut builder = ClusterClient::builder(infos?)
        .connection_timeout(CONNECT)
        .response_timeout(answer)
        .retries(2)
        .min_retry_wait(50)
        .max_retry_wait(200);
    if let Some(ca) = &settings.ca {
        let root_cert = Some(ca.clone().into_bytes());
        builder = builder.certs(TlsCertificates { client_tls: None, root_cert });
    }
    Ok(timeout(3 * CONNECT, builder.build()?.get_async_connection()).await??)
}

/// The first Sentinel that knows says.
async fn master_of(
    settings: &RedisSettings,
    master: &str,
    nodes: &[(String, u16)],
) -> Result<(String, u16), Fault> {
    let mut last = Fault("no Sentinel is named".to_owned());
    for node in nodes {
        match timeout(SENTINEL, ask_sentinel(settings, master, node)).await.map_err(Fault::from) {
            Ok(Ok(Some(found))) => return Ok(found),
            Ok(Ok(None)) => {
                last = Fault(format!("the Sentinel {}:{} knows no master \"{master}\"", node.0, node.1))
            }
            Ok(Err(fault)) | Err(fault) => {
                last = Fault(format!("the Sentinel {}:{}: {fault}", node.0, node.1))
            }
        }
    }
    Err(last)
}

async fn ask_sentinel(
    settings: &RedisSettings,
    master: &str,
    node: &(String, u16),
) -> Result<Option<(String, u16)>, Fault> {
    let addr = || address(node.clone(), settings.ca.is_some());
    // Most Sentinels ask for no password and refuse one.
    let open = RedisSettings { password: None, username: None, ..settings.clone() };
    let mut asked = get_master(&open, addr(), master).await;
    if asked.as_ref().is_err_and(|error| error.code() == Some("NOAUTH")) && settings.password.is_some() {
        asked = get_master(settings, addr(), master).await;
    }
    let found = asked?;
    Ok(found.and_then(|(host, port)| Some((host, port.parse().ok()?))))
}

async fn get_master(
    settings: &RedisSettings,
    addr: ConnectionAddr,
    master: &str,
) -> Result<Option<(String, String)>, RedisError> {
    let mut sentinel = open_one(settings, addr, 0, SENTINEL)
        .await
        .map_err(|fault| RedisError::from((ErrorKind::Io, "cannot be reached", fault.0)))?;
    cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).query_async(&mut sentinel).await
}
