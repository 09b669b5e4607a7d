//! Clients of protocols before 1.18, and the words in which they are refused.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::world::front;
use nixci_store::testing::{NixVersion, TestDaemon};
use rstest::rstest;

/// What a client hears that says these words and then waits for an answer.
fn heard(said: &[u64]) -> Vec<u8> {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let nixci = front(&store, "");
    let mut stream = UnixStream::connect(nixci.socket()).unwrap();
    stream.write_all(b"cxin\0\0\0\0").unwrap();
    let mut heard = vec![0; 16];
    stream.read_exact(&mut heard).unwrap();
    let said: Vec<u8> = said.iter().flat_map(|word| word.to_le_bytes()).collect();
    stream.write_all(&said).unwrap();
    stream.read_to_end(&mut heard).unwrap();
    heard
}

#[rstest]
#[case::nix_1_11(&[0x10f, 0, 0], "1.15")]
#[case::just_too_old(&[0x111, 0, 0], "1.17")]
#[case::ancient(&[0x102], "1.2")]
fn a_client_that_is_too_old_is_told_so_in_its_own_form(#[case] said: &[u64], #[case] version: &str) {
    let heard = heard(said);
    assert_eq!(&heard[..8], b"oixd\0\0\0\0");
    // STDERR_ERROR, a text and an exit status: the form of before 1.26.
    assert_eq!(heard[16..24], 0x6378_7470_u64.to_le_bytes(), "{heard:?}");
    let length = usize::try_from(u64::from_le_bytes(heard[24..32].try_into().unwrap())).unwrap();
    let text = String::from_utf8(heard[32..32 + length].to_vec()).unwrap();
    assert!(
        text.contains(version) && text.contains("1.18") && text.contains("Nix 2.0"),
        "{text}"
    );
    let status = 32 + length.next_multiple_of(8);
    assert_eq!(heard[status..], 1_u64.to_le_bytes());
}
