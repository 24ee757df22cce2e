//! What an entry of the stream tells.

use redis::{FromRedisValue, RedisError, from_redis_value};

use super::connect::Fault;
use super::wire;
use crate::secret::KeyHash;

/// An entry of the stream.
pub(super) struct Change {
    pub(super) by: String,
    pub(super) at: u64,
    pub(super) ended: Vec<KeyHash>,
    pub(super) changed: Vec<KeyHash>,
    pub(super) tokens: bool,
}

impl Change {
    pub(super) fn read(mut fields: std::collections::HashMap<String, redis::Value>) -> Result<Self, Fault> {
        let mut take = |name: &str| fields.remove(name);
        let ids = |value: Option<redis::Value>| -> Result<Vec<KeyHash>, RedisError> {
            let bytes: Option<Vec<u8>> = value.map(from_redis_value).transpose()?;
            Ok(wire::read_ids(&bytes.unwrap_or_default()))
        };
        Ok(Self {
            by: take(wire::BY)
                .map(String::from_redis_value)
                .transpose()
                .map_err(RedisError::from)?
                .unwrap_or_default(),
            at: take(wire::AT)
                .map(u64::from_redis_value)
                .transpose()
                .map_err(RedisError::from)?
                .unwrap_or_default(),
            ended: ids(take(wire::ENDED))?,
            changed: ids(take(wire::CHANGED))?,
            tokens: take(wire::TOKENS_CHANGED).is_some(),
        })
    }
}
