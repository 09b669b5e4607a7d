//! Sizes as people write them.

/// Bytes in a unit, longest names first.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Reads `10 GiB`, `500MB`, or `off` for nothing.
pub(super) fn parse(key: &str, text: &str) -> Result<u64, String> {
    if text == "off" {
        return Ok(0);
    }
    let size = UNITS.iter().find_map(|(unit, bytes)| {
        let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(*bytes)
    });
    size.ok_or_else(|| format!("`{key}` is `{text}`; write a size like \"10 GiB\", or \"off\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_number_and_a_unit() {
        for (text, bytes) in [
            ("off", 0),
            ("10 GiB", 10 << 30),
            ("500MB", 500_000_000),
            ("1 kB", 1_000),
            ("7 B", 7),
        ] {
            assert_eq!(parse("size", text), Ok(bytes), "{text}");
        }
        for bad in ["", "10", "GiB", "-1 GiB", "1.5 GiB", "10 gib", "99999999999 TiB"] {
            let told = parse("size", bad).unwrap_err();
            assert!(told.contains("`size` is") && told.contains("10 GiB"), "{told}");
        }
    }
}
