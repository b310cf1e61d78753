//! Hello: version, features, limits, and the shard that is to own the connection.
//!
//! Floor 3.
//!
//! ```text
//! hello    u16 version_min | u16 version_max | u32 shard | u64 features | u32 frame_bytes_max | text
//! client_id answer   u16 version | u16 reserved | u32 shard | u32 shards | u32 frame_bytes_max | u64
//! features
//!          | u64 broker_epoch | u32 handles_max | u32 requests_max
//! ```

use crate::base::cursor::put_text;
use crate::base::{DecodeError, Reader};

use super::body::{put_u16, put_u32, put_u64};

/// In a hello: any shard will do.
pub const ANY_SHARD: u32 = u32::MAX;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub version_min: u16,
    pub version_max: u16,
    /// The shard that is to serve this connection, or [`ANY_SHARD`]. One that does not exist
    /// (the shard count changed) is treated as any: the answer says where the client landed.
    pub shard: u32,
    /// Bits that both sides know are in force; none is defined in version 1.
    pub features: u64,
    /// Largest frame that the client accepts, header included.
    pub frame_bytes_max: u32,
    /// For logs and metrics.
    pub client_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The version of every later frame, in both directions.
    pub version: u16,
    pub shard: u32,
    pub shards: u32,
    /// Largest frame that the broker accepts, header included.
    pub frame_bytes_max: u32,
    pub features: u64,
    /// Grows with every start of the broker.
    pub broker_epoch: u64,
    /// Most handles open on this connection at once.
    pub handles_max: u32,
    /// Most unanswered requests; beyond them the broker stops reading until some are answered.
    pub requests_max: u32,
}

impl Hello {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u16(out, self.version_min);
        put_u16(out, self.version_max);
        put_u32(out, self.shard);
        put_u64(out, self.features);
        put_u32(out, self.frame_bytes_max);
        put_text(out, &self.client_id);
    }

    /// Ignores what follows: a newer client may say more.
    pub(super) fn decode(reader: &mut Reader) -> Result<Hello, DecodeError> {
        Ok(Hello {
            version_min: reader.u16("hello version min")?,
            version_max: reader.u16("hello version max")?,
            shard: reader.u32("hello shard")?,
            features: reader.u64("hello features")?,
            frame_bytes_max: reader.u32("hello frame bytes max")?,
            client_id: reader.text("hello client id")?.to_owned(),
        })
    }

    /// The highest version that both sides speak.
    pub fn version(&self) -> Option<u16> {
        let version = self.version_max.min(super::VERSION_MAX);
        (version >= self.version_min.max(super::VERSION_MIN)).then_some(version)
    }
}

impl HelloReply {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u16(out, self.version);
        put_u16(out, 0);
        put_u32(out, self.shard);
        put_u32(out, self.shards);
        put_u32(out, self.frame_bytes_max);
        put_u64(out, self.features);
        put_u64(out, self.broker_epoch);
        put_u32(out, self.handles_max);
        put_u32(out, self.requests_max);
    }

    pub(super) fn decode(reader: &mut Reader) -> Result<HelloReply, DecodeError> {
        let version = reader.u16("hello version")?;
        reader.u16("hello reserved")?;
        Ok(HelloReply {
            version,
            shard: reader.u32("hello shard")?,
            shards: reader.u32("hello shards")?,
            frame_bytes_max: reader.u32("hello frame bytes max")?,
            features: reader.u64("hello features")?,
            broker_epoch: reader.u64("hello broker epoch")?,
            handles_max: reader.u32("hello handles max")?,
            requests_max: reader.u32("hello requests max")?,
        })
    }
}
