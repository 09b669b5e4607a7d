/// Whether the server takes what this client says at its word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trust {
    /// The server did not say (before 1.35, or its store does not know).
    #[default]
    Unknown,
    /// It does.
    Trusted,
    /// It checks.
    NotTrusted,
}

/// How important a message is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verbosity {
    /// 0.
    Error,
    /// 1.
    Warn,
    /// 2.
    Notice,
    /// 3, what stock clients ask for.
    #[default]
    Info,
    /// 4.
    Talkative,
    /// 5.
    Chatty,
    /// 6.
    Debug,
    /// 7.
    Vomit,
}
