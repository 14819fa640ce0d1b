//! What a conversation is: the types of its requests and answers, its versions and its limits.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A conversation held over one kind of socket. Implemented once for each in crate `job`.
pub trait Conversation: Sized + 'static {
    /// Its name, as in `hello` and in the socket's file name: `route`, `deliver`.
    const NAME: &'static str;
    /// The versions spoken, newest first.
    const VERSIONS: &'static [u32];
    /// What may be asked.
    type Request: Request;
    /// What is answered.
    type Answer: Serialize + DeserializeOwned + 'static;
}

/// A request of a conversation: one method with its parameters.
pub trait Request: Sized + 'static {
    /// The JSON-RPC method.
    fn method(&self) -> &'static str;
    /// Appends the JSON of `params`.
    fn write_params(&self, out: &mut Vec<u8>);
    /// Takes a request from the wire. Unknown fields are ignored; a missing or malformed one is an error.
    fn read(method: &str, params: &RawValue) -> Result<Self, RequestError>;
    /// Takes a request as [`Request::read`] does, from a text that need not be JSON: then it is an error too.
    fn read_text(method: &str, params: &str) -> Result<Self, RequestError> {
        Self::read(method, read_text(params)?)
    }
}

/// Why a request on the wire could not be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// This conversation has no such method.
    #[error("no such method")]
    Method,
    /// The parameters lack something or have it wrong.
    #[error("malformed parameters: {0}")]
    Params(String),
}

/// The error object of a JSON-RPC reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct ErrorObject {
    /// One of [`codes`].
    pub code: i32,
    /// For people, one line.
    pub message: String,
}

impl ErrorObject {
    /// An error of our own making.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The error codes of job sockets: JSON-RPC 2.0's, and ours from -32001 down.
pub mod codes {
    /// The line is not JSON.
    pub const PARSE: i32 = -32700;
    /// The line is JSON but not a request.
    pub const INVALID_REQUEST: i32 = -32600;
    /// The conversation has no such method.
    pub const METHOD: i32 = -32601;
    /// The parameters are malformed.
    pub const PARAMS: i32 = -32602;
    /// The worker could not do it and says why; to be tried elsewhere or later.
    pub const INTERNAL: i32 = -32603;
    /// The worker drains: the request was not taken, and no strike is due.
    pub const NOT_TAKEN: i32 = -32001;
    /// The deadline passed before the work was done.
    pub const DEADLINE: i32 = -32002;
    /// The window or the worker's slots are full: the sender ignored its window.
    pub const WINDOW: i32 = -32003;
    /// What the request names does not exist.
    pub const NOT_FOUND: i32 = -32004;
    /// The request makes no sense in the present state; the message says why.
    pub const CONFLICT: i32 = -32005;
    /// What the request names is under suspicion of crashing whoever takes it: to be sent alone, or left to who does.
    pub const SUSPECT: i32 = -32006;
}

/// Implements [`Request`] for a type that is the only request of its conversation.
#[macro_export]
macro_rules! single_request {
    ($type:ty, $method:literal) => {
        impl $crate::Request for $type {
            fn method(&self) -> &'static str {
                $method
            }
            fn write_params(&self, out: &mut Vec<u8>) {
                $crate::write_json(self, out);
            }
            fn read(method: &str, params: &$crate::RawValue) -> Result<Self, $crate::RequestError> {
                Self::read_text(method, params.get())
            }
            fn read_text(method: &str, params: &str) -> Result<Self, $crate::RequestError> {
                match method {
                    $method => $crate::read_text(params),
                    _ => Err($crate::RequestError::Method),
                }
            }
        }
    };
}

/// Declares the enum of a conversation with several requests: `"method" => Variant(Params)`.
#[macro_export]
macro_rules! requests {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$variant_meta:meta])* $method:literal => $variant:ident($params:ty)),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis enum $name { $($(#[$variant_meta])* $variant($params)),+ }

        impl $crate::Request for $name {
            fn method(&self) -> &'static str {
                match self { $(Self::$variant(_) => $method),+ }
            }
            fn write_params(&self, out: &mut Vec<u8>) {
                match self { $(Self::$variant(params) => $crate::write_json(params, out)),+ }
            }
            fn read(method: &str, params: &$crate::RawValue) -> Result<Self, $crate::RequestError> {
                Self::read_text(method, params.get())
            }
            fn read_text(method: &str, params: &str) -> Result<Self, $crate::RequestError> {
                match method {
                    $($method => $crate::read_text(params).map(Self::$variant),)+
                    _ => Err($crate::RequestError::Method),
                }
            }
        }
    };
}

/// Appends a value as JSON. Our own types always can be written.
#[doc(hidden)]
pub fn write_json<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value)
        .expect("our own types become JSON, and a vector takes every byte");
}

/// Reads parameters.
#[doc(hidden)]
pub fn read_text<'a, T: Deserialize<'a>>(params: &'a str) -> Result<T, RequestError> {
    serde_json::from_str(params).map_err(|error| RequestError::Params(error.to_string()))
}
