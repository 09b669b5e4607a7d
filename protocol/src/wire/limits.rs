/// How much of a peer's data is taken into memory. Every limit has a name, and an error text that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in a name, path, setting, hash or signature. 64 KiB.
    pub max_string: u64,
    /// Bytes in a text: file contents, environment variables, log lines, error messages. 64 MiB.
    pub max_text: u64,
    /// Items in a list, set or map. 1,000,000.
    pub max_items: u64,
    /// Bytes in all fields of one request, reply or log message. 256 MiB.
    pub max_message: u64,
    /// Bytes in a frame. 16 MiB; frames are passed on in pieces, so this is no matter of memory.
    pub max_frame: u64,
    /// Features a peer may list. 100,000; unknown ones take no memory.
    pub max_features: u64,
    /// Bytes in a control request or in one line or value of its reply. 64 MiB.
    pub max_control: u64,
    /// Paths in one stream of paths. 1,000,000; each is done with before the next is read.
    pub max_paths: u64,
}

/// One limit and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Its name, as in the configuration: `max_string`.
    pub name: &'static str,
    /// Its value.
    pub max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_string: 64 << 10,
            max_text: 64 << 20,
            max_items: 1_000_000,
            max_message: 256 << 20,
            max_frame: 16 << 20,
            max_features: 100_000,
            max_control: 64 << 20,
            max_paths: 1_000_000,
        }
    }
}

macro_rules! limits {
    ($($method:ident $field:ident $name:literal;)*) => {
        impl Limits {
            $(
                #[doc = concat!("`", $name, "`.")]
                #[must_use]
                pub fn $method(&self) -> Limit {
                    Limit { name: $name, max: self.$field }
                }
            )*
        }
    };
}

limits! {
    string max_string "max_string";
    text max_text "max_text";
    items max_items "max_items";
    message max_message "max_message";
    frame max_frame "max_frame";
    features max_features "max_features";
    control max_control "max_control";
    paths max_paths "max_paths";
}
