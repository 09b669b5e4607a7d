//! The server's half: shake hands, read requests one by one, let a [`Handler`] answer them.
//!
//! A request that cannot be parsed ends the connection, after one error that says why: there is no way to find the
//! next request. An error of the handler does not. A client that hangs up while a handler works cancels it, by
//! dropping its future, unless a body is still to be read: then reading the body fails, so that what arrived whole
//! can be kept.

mod body;
mod error;
mod exchange;
mod greet;
mod serve;

pub use body::FramedBody;
pub use error::{HandlerError, ServeError};
pub use exchange::Exchange;
pub use greet::{Greeted, ServerHello, greet, refuse};
pub use serve::serve;

use crate::op::{Reply, Request};

/// Answers requests.
pub trait Handler: Send {
    /// Answers one request. The variant of the reply must be the one [`Request::reply_shape`] names.
    ///
    /// What follows the request in frames is [`Exchange::body`]; what the handler leaves of it is skipped. The future
    /// is dropped when the client hangs up.
    fn handle(
        &mut self,
        request: Request,
        exchange: &mut Exchange<'_>,
    ) -> impl Future<Output = Result<Reply, HandlerError>> + Send;

    /// Whether the client is served no further: asked after each answer, which still goes out.
    fn is_over(&self) -> bool {
        false
    }
}
