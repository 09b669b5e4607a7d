//! What goes wrong with a request, in its two faces: the client's and the operator's.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use nixci_store::logs;

use crate::read::ReadError;

/// What the client is told. [`super::layers`] makes a page or JSON of it.
#[derive(Debug)]
pub(super) struct HttpError {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl HttpError {
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
        }
    }

    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            message: message.into(),
        }
    }

    fn internal(error: &(dyn std::error::Error + 'static), what: &str) -> Self {
        tracing::error!(error, "{what}");
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: format!("{what}; the daemon's log says why"),
        }
    }

    pub(super) fn busy() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            message: "too many streams are open; try again later, or reload the page now and then".to_owned(),
        }
    }
}

impl From<ReadError> for HttpError {
    fn from(error: ReadError) -> Self {
        match &error {
            ReadError::NotFound(_) => Self::missing(error.to_string()),
            ReadError::Unclear(_) => Self::bad(error.to_string()),
            ReadError::Index(_) => Self::internal(&error, "the index cannot be read"),
            ReadError::Stopping(_) => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                message: "the daemon is shutting down".to_owned(),
            },
        }
    }
}

impl From<logs::Error> for HttpError {
    fn from(error: logs::Error) -> Self {
        Self::internal(&error, "the log cannot be read")
    }
}

impl From<askama::Error> for HttpError {
    fn from(error: askama::Error) -> Self {
        Self::internal(&error, "the page cannot be rendered")
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        (self.status, self.message).into_response()
    }
}
