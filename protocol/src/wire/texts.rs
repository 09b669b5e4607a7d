//! Values that are numbers or strings on the wire.

use bytes::{Bytes, BytesMut};

use super::primitive::{boolean, failure, number, padding, put_number, put_string, string, text};
use super::{Negotiated, Source, Wire, WireError};
use crate::types::{
    AddMethod, BuildMode, BuildStatus, ContentAddress, DerivedPath, DrvOutput, DrvPath, NarHash, OutputName,
    Realisation, Signature, StorePath, Trust, Verbosity,
};
use crate::version::Version;

impl Wire for u64 {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        from.parse(|_, input| number(input)).await
    }

    fn encode(&self, _: &Negotiated, out: &mut BytesMut) {
        put_number(*self, out);
    }
}

impl Wire for bool {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        from.parse(|_, input| boolean(input)).await
    }

    fn encode(&self, _: &Negotiated, out: &mut BytesMut) {
        put_number(u64::from(*self), out);
    }
}

/// A text of arbitrary bytes, within `max_text`.
impl Wire for Bytes {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        from.parse(|on, input| {
            let (rest, body) = string(on.limits.text(), input)?;
            Ok((rest, Bytes::copy_from_slice(body)))
        })
        .await
    }

    fn encode(&self, _: &Negotiated, out: &mut BytesMut) {
        put_string(self, out);
    }
}

/// Writes a path with its store directory; there are many of them, so that nothing is allocated for one.
fn put_path(path: &StorePath, on: &Negotiated, out: &mut BytesMut) {
    let dir = on.store_dir.as_str().as_bytes();
    let (hash, name) = path.parts();
    let length = dir.len() + hash.len() + name.len() + 2;
    out.reserve(length + 16);
    put_number(length as u64, out);
    for part in [dir, b"/", &hash, b"-", name, &[0; 8][..padding(length as u64)]] {
        out.extend_from_slice(part);
    }
}

/// Implements [`Wire`] for what is a short string of UTF-8.
macro_rules! wire_text {
    ($type:ty, |$on:ident, $text:ident| $parse:expr, |$value:ident, $with:ident| $encode:expr) => {
        wire_text!(
            $type,
            |$on, $text| $parse,
            put | $value,
            $with,
            out | put_string($encode.as_bytes(), out)
        );
    };
    ($type:ty, |$on:ident, $text:ident| $parse:expr, put |$value:ident, $with:ident, $out:ident| $put:expr) => {
        impl Wire for $type {
            async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
                from.parse(|$on, input| {
                    let (rest, $text) = text($on.limits.string(), input)?;
                    match $parse {
                        Ok(value) => Ok((rest, value)),
                        Err(error) => Err(failure(error)),
                    }
                })
                .await
            }

            fn encode(&self, $with: &Negotiated, $out: &mut BytesMut) {
                let $value = self;
                $put;
            }
        }
    };
}

wire_text!(String, |on, text| Ok::<_, WireError>(text.to_owned()), |it, _on| it);
wire_text!(
    StorePath,
    |on, text| on.store_dir.parse(text),
    put | it,
    on,
    out | put_path(it, on, out)
);
wire_text!(
    DrvPath,
    |on, text| on
        .store_dir
        .parse(text)
        .map_err(WireError::from)
        .and_then(|path| Ok(DrvPath::try_from(path)?)),
    put | it,
    on,
    out | put_path(it.path(), on, out)
);
wire_text!(
    Option<StorePath>,
    |on, text| if text.is_empty() {
        Ok(None)
    } else {
        on.store_dir.parse(text).map(Some)
    },
    put | it,
    on,
    out | match it {
        Some(path) => put_path(path, on, out),
        None => put_string(&[], out),
    }
);
wire_text!(OutputName, |on, text| text.parse::<OutputName>(), |it, _on| it.as_str());
wire_text!(NarHash, |on, text| text.parse::<NarHash>(), |it, _on| it.to_string());
wire_text!(Signature, |on, text| text.parse::<Signature>(), |it, _on| it
    .to_string());
wire_text!(AddMethod, |on, text| text.parse::<AddMethod>(), |it, _on| it
    .to_string());
wire_text!(ContentAddress, |on, text| text.parse::<ContentAddress>(), |it, _on| it
    .to_string());
wire_text!(
    Option<ContentAddress>,
    |on, text| if text.is_empty() {
        Ok(None)
    } else {
        text.parse::<ContentAddress>().map(Some)
    },
    |it, _on| it.map(|ca| ca.to_string()).unwrap_or_default()
);
wire_text!(DrvOutput, |on, text| text.parse::<DrvOutput>(), |it, _on| it
    .to_string());
wire_text!(
    DerivedPath,
    |on, text| if on.version >= Version::DERIVED_PATHS {
        DerivedPath::parse(&on.store_dir, text)
    } else {
        DerivedPath::parse_legacy(&on.store_dir, text)
    },
    |it, on| if on.version >= Version::DERIVED_PATHS {
        it.to_text(&on.store_dir)
    } else {
        it.to_legacy_text(&on.store_dir)
    }
);

impl Wire for Realisation {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        from.parse(|on, input| {
            let (rest, json) = string(on.limits.text(), input)?;
            Ok((rest, Realisation::from_json(json).map_err(failure)?))
        })
        .await
    }

    fn encode(&self, _: &Negotiated, out: &mut BytesMut) {
        put_string(self.to_json().as_bytes(), out);
    }
}

/// Implements [`Wire`] for an enum that is one number.
macro_rules! wire_tag {
    ($type:ident, $what:literal, { $($number:literal $variant:ident),* $(,)? }) => {
        impl $crate::wire::Wire for $type {
            async fn read<S: $crate::wire::Source>(from: &mut S) -> Result<Self, S::Error> {
                from.parse(|_, input| {
                    let (rest, value) = $crate::wire::primitive::number(input)?;
                    match value {
                        $($number => Ok((rest, $type::$variant)),)*
                        _ => Err($crate::wire::primitive::failure($crate::wire::WireError::Tag { what: $what, value })),
                    }
                })
                .await
            }

            fn encode(&self, _: &$crate::wire::Negotiated, out: &mut bytes::BytesMut) {
                let number = match self {
                    $($type::$variant => $number,)*
                };
                $crate::wire::primitive::put_number(number, out);
            }
        }
    };
}
pub(crate) use wire_tag;

wire_tag!(Trust, "trust level", { 0 Unknown, 1 Trusted, 2 NotTrusted });
wire_tag!(BuildMode, "build mode", { 0 Normal, 1 Repair, 2 Check });
wire_tag!(BuildStatus, "build status", {
    0 Built, 1 Substituted, 2 AlreadyValid, 3 PermanentFailure, 4 InputRejected, 5 OutputRejected,
    6 TransientFailure, 7 CachedFailure, 8 TimedOut, 9 MiscFailure, 10 DependencyFailed,
    11 LogLimitExceeded, 12 NotDeterministic, 13 ResolvesToAlreadyValid, 14 NoSubstituters,
});

/// Stock readers take any number; those above the last level mean the last level.
impl Wire for Verbosity {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        from.parse(|_, input| {
            let (rest, level) = number(input)?;
            let level = match level {
                0 => Self::Error,
                1 => Self::Warn,
                2 => Self::Notice,
                3 => Self::Info,
                4 => Self::Talkative,
                5 => Self::Chatty,
                6 => Self::Debug,
                _ => Self::Vomit,
            };
            Ok((rest, level))
        })
        .await
    }

    fn encode(&self, _: &Negotiated, out: &mut BytesMut) {
        put_number(*self as u64, out);
    }
}

/// An error message: bytes that are read as UTF-8 as far as they are.
pub(crate) async fn read_message<S: Source>(from: &mut S) -> Result<String, S::Error> {
    from.parse(|on, input| {
        let (rest, body) = string(on.limits.text(), input)?;
        Ok((rest, String::from_utf8_lossy(body).into_owned()))
    })
    .await
}
