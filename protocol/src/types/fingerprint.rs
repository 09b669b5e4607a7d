//! What signatures cover, spelled as Nix spells it.

use std::fmt::Write as _;

use serde_json::json;

use super::{DrvOutputKey, Hash, PathInfo, PublicKey, Realisation, StoreDir, UnkeyedRealisation};

/// What a signature of a path covers: the path, the hash and size of its NAR, and its references. Deriver, content
/// address and times are not covered.
#[must_use]
pub fn fingerprint(dir: &StoreDir, path: &PathInfo) -> String {
    let PathInfo { path, info } = path;
    let mut text = format!(
        "1;{};{};{};",
        dir.display(path),
        Hash::from(info.nar_hash),
        info.nar_size
    );
    for (nth, reference) in info.references.iter().enumerate() {
        let comma = if nth == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{}", dir.display(reference));
    }
    text
}

impl PathInfo {
    /// Whether one of its signatures, by one of these keys, covers it. Proves nothing about bytes: the hash must have
    /// been computed from them.
    #[must_use]
    pub fn is_signed_by(&self, dir: &StoreDir, keys: &[PublicKey]) -> bool {
        let mut covered = None;
        self.info.signatures.iter().any(|signature| {
            keys.iter().filter(|key| key.name() == signature.name()).any(|key| {
                let covered = covered.get_or_insert_with(|| fingerprint(dir, self));
                key.verifies(covered.as_bytes(), signature)
            })
        })
    }
}

impl Realisation {
    /// What a signature covers: the JSON form without signatures.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut unsigned = self.clone();
        unsigned.signatures = None;
        unsigned.to_json()
    }
}

impl UnkeyedRealisation {
    /// What a signature covers: the JSON form of Nix 2.35 and later, without signatures.
    #[must_use]
    pub fn fingerprint(&self, key: &DrvOutputKey) -> String {
        json!({
            "key": {"drvPath": key.drv.to_string(), "outputName": key.output.to_string()},
            "value": {"outPath": self.out_path.to_string()},
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{KeyError, SecretKey, Signature};

    /// Made by `nix key generate-secret`, for these tests only.
    const SECRET: &str =
        "test.example-1:Sqb8GHNLVl3t4VK94qTMWL9rLIg1HYMGsUhPwJFJUb+PspFfidiX+P9mo/LFc3siqV/A9xos+SRLIbpm3jW6jQ==";
    /// What `nix key convert-secret-to-public` makes of it.
    const PUBLIC: &str = "test.example-1:j7KRX4nYl/j/ZqPyxXN7IqlfwPcaLPkkSyG6Zt41uo0=";
    /// What `nix store sign` of 2.8.0, 2.26.3 and 2.34.8 made of [`signed`] with it.
    const SIGNATURE: &str =
        "test.example-1:vlUPFavXbnd2vrmLwuOxlIgP3WYwa71tHXEo/L4l+O3tejcqtGSv1ZWf0K7nQx8lXtsF4DFWXwqoGKOSkUyDCw==";

    fn signed() -> PathInfo {
        PathInfo {
            path: "28nvh9lf9mr482sc9kfn2l1kckm3aj3z-c.drv".parse().unwrap(),
            info: crate::types::UnkeyedPathInfo {
                deriver: None,
                nar_hash: "sha256-hGUhNA/ThqS+5SKeEpbyvRj2SDJF2vSOASjXw62CXOA=".parse().unwrap(),
                references: [
                    "pxvcv8a2q21xkd9l7zrzb2xlqzah47md-b",
                    "fk8dcgmnha5fzimiscxwaysc3h4js3xs-a",
                ]
                .map(|path| path.parse().unwrap())
                .into(),
                registration_time: 1_795_268_771,
                nar_size: 560,
                ultimate: false,
                signatures: [SIGNATURE.parse().unwrap()].into(),
                ca: None,
            },
        }
    }

    #[test]
    fn signatures_are_those_nix_makes() {
        let dir = StoreDir::default();
        let secret: SecretKey = SECRET.parse().unwrap();
        let public: PublicKey = PUBLIC.parse().unwrap();
        assert_eq!(secret.public(), public);
        assert_eq!(
            (secret.expose().as_str(), public.to_string().as_str()),
            (SECRET, PUBLIC)
        );
        let covered = fingerprint(&dir, &signed());
        assert_eq!(
            covered,
            "1;/nix/store/28nvh9lf9mr482sc9kfn2l1kckm3aj3z-c.drv;\
             sha256:1q2whanw7mr8067g9nj5694gc65xyab157i2wnza91nk1ws22rc4;560;\
             /nix/store/fk8dcgmnha5fzimiscxwaysc3h4js3xs-a,/nix/store/pxvcv8a2q21xkd9l7zrzb2xlqzah47md-b"
        );
        assert_eq!(secret.sign(covered.as_bytes()).to_string(), SIGNATURE);
        assert!(signed().is_signed_by(&dir, std::slice::from_ref(&public)));
    }

    #[test]
    fn a_signature_covers_path_directory_hash_size_and_references() {
        let dir = StoreDir::default();
        let keys = [PUBLIC.parse().unwrap()];
        let lie = |change: &dyn Fn(&mut PathInfo)| {
            let mut info = signed();
            change(&mut info);
            info.is_signed_by(&dir, &keys)
        };
        assert!(lie(&|info| info.info.registration_time = 1));
        assert!(!lie(
            &|info| info.path = "28nvh9lf9mr482sc9kfn2l1kckm3aj3z-d.drv".parse().unwrap()
        ));
        assert!(!lie(&|info| info.info.nar_hash.0[0] ^= 1));
        assert!(!lie(&|info| info.info.nar_size += 8));
        assert!(!lie(&|info| drop(info.info.references.pop_first())));
        assert!(!signed().is_signed_by(&StoreDir::new("/gnu/store").unwrap(), &keys));
        // A key of another name, and another key of the same name.
        let name = |text: &str| text.replace("test.example-1", "other-1");
        assert!(!signed().is_signed_by(&dir, &[name(PUBLIC).parse().unwrap()]));
        let other = SecretKey::from_seed("test.example-1", &[7; 32]).unwrap();
        assert!(!signed().is_signed_by(&dir, &[other.public()]));
        assert!(!lie(
            &|info| info.info.signatures = [name(SIGNATURE).parse().unwrap()].into()
        ));
        let torn = |info: &mut PathInfo| {
            let mut bytes = *SIGNATURE.parse::<Signature>().unwrap().as_bytes();
            bytes[63] ^= 0x80;
            info.info.signatures = [Signature::new("test.example-1", bytes).unwrap()].into();
        };
        assert!(!lie(&torn));
    }

    #[test]
    fn a_secret_is_never_told() {
        let secret: SecretKey = SECRET.parse().unwrap();
        assert_eq!(format!("{secret:?}"), "SecretKey(test.example-1:redacted)");
        // Given where a public key should be, or broken in any way.
        let half = &SECRET[..SECRET.len() - 4];
        let errors = [
            SECRET.parse::<PublicKey>().unwrap_err(),
            half.parse::<PublicKey>().unwrap_err(),
            half.parse::<SecretKey>().unwrap_err(),
            SECRET.replace("jQ==", "jA==").parse::<SecretKey>().unwrap_err(),
            SECRET.replace(':', "").parse::<SecretKey>().unwrap_err(),
        ];
        for error in errors {
            assert!(!format!("{error} {error:?}").contains("Sqb8GHNL"), "{error}");
        }
    }

    #[test]
    fn keys_that_are_none_are_named() {
        assert_eq!(
            PUBLIC.parse::<SecretKey>().unwrap_err(),
            KeyError::OnlyPublic("test.example-1".into())
        );
        for bad in [
            "",
            "x",
            ":",
            "name:",
            "name:AAAA",
            ":j7KRX4nYl/j/ZqPyxXN7IqlfwPcaLPkkSyG6Zt41uo0=",
        ] {
            assert!(matches!(bad.parse::<PublicKey>(), Err(KeyError::Public(_))), "{bad}");
            assert_eq!(bad.parse::<SecretKey>().unwrap_err(), KeyError::Secret, "{bad}");
        }
        // Of small order: it would verify nearly anything.
        let weak = "weak-1:AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert!(matches!(weak.parse::<PublicKey>(), Err(KeyError::NotAPoint(_))));
    }

    #[test]
    fn realisations_are_covered_as_json_in_either_form() {
        let id = format!("sha256:{}!out", "0".repeat(64)).parse().unwrap();
        let path = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo";
        let realisation = Realisation {
            id,
            out_path: path.parse().unwrap(),
            signatures: None,
            dependencies: Some([].into()),
        };
        assert_eq!(
            realisation.fingerprint(),
            format!(
                "{{\"dependentRealisations\":{{}},\"id\":\"sha256:{}!out\",\"outPath\":\"{path}\"}}",
                "0".repeat(64)
            )
        );
        let key = DrvOutputKey {
            drv: "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv".parse().unwrap(),
            output: "foo".parse().unwrap(),
        };
        // As in Nix's own vectors.
        assert_eq!(
            UnkeyedRealisation::unsigned(path.parse().unwrap()).fingerprint(&key),
            "{\"key\":{\"drvPath\":\"g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv\",\"outputName\":\"foo\"},\
             \"value\":{\"outPath\":\"g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo\"}}"
        );
    }
}
