//! Logs on real files.

use std::io::Write as _;

use nixci_protocol::nixci::control::AttemptId;
use tempfile::TempDir;

use super::*;

const ID: AttemptId = AttemptId(5000);

fn logs() -> (Logs, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Logs::open(dir.path()).unwrap(), dir)
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("1").join("5000.log.zst")
}

fn line(text: impl Into<String>) -> Entry {
    Entry::Line(text.into())
}

async fn all(mut follow: Follow) -> Vec<Entry> {
    let mut entries = Vec::new();
    while let Some(entry) = follow.next().await.unwrap() {
        entries.push(entry);
    }
    entries
}

/// Enough different text to fill several frames.
fn long_lines(count: usize) -> Vec<String> {
    (0..count)
        .map(|at| format!("line {at} {}", "abc ".repeat(at % 50)))
        .collect()
}

#[tokio::test]
async fn what_was_written_is_read_and_stock_zstd_prints_it() {
    let (logs, dir) = logs();
    let mut writer = logs.start(ID);
    writer.line(b"unpacking \x1b[31mred\x1b[0m").await;
    writer.phase("build").await;
    writer.line(b"two\nlines\n").await;
    writer.line(b"").await;
    writer.line(b"\0p is no phase").await;
    writer.line(b"not \xff UTF-8").await;
    let summary = writer.finish().await;
    assert_eq!(summary, LogSummary { lines: 6, dropped: 0 });
    let expected = [
        line("unpacking \u{1b}[31mred\u{1b}[0m"),
        Entry::Phase("build".to_owned()),
        line("two"),
        line("lines"),
        line(""),
        line("\0p is no phase"),
        line("not \u{fffd} UTF-8"),
    ];
    assert_eq!(all(logs.read(ID)).await, expected);
    assert_eq!(all(logs.follow(ID)).await, expected);
    assert_eq!(
        logs.tail(ID, 2).await.unwrap(),
        ["\0p is no phase", "not \u{fffd} UTF-8"]
    );
    let plain = zstd::decode_all(std::fs::File::open(file(&dir)).unwrap()).unwrap();
    assert!(plain.starts_with(b"unpacking \x1b[31mred\x1b[0m\n"));
    assert_eq!(logs.running(ID), None);
}

#[tokio::test]
async fn a_silent_attempt_has_no_file_and_an_unknown_one_no_lines() {
    let (logs, dir) = logs();
    let writer = logs.start(ID);
    let follow = logs.follow(ID);
    assert_eq!(writer.finish().await, LogSummary { lines: 0, dropped: 0 });
    assert!(!file(&dir).exists());
    assert_eq!(all(follow).await, []);
    assert_eq!(all(logs.read(AttemptId(1))).await, []);
    assert!(logs.tail(AttemptId(1), 5).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_running_log_is_read_up_to_now() {
    let (logs, _dir) = logs();
    let mut writer = logs.start(ID);
    let lines = long_lines(3000);
    for (at, text) in lines.iter().enumerate() {
        writer.line(text.as_bytes()).await;
        if at % 500 == 0 {
            let read = all(logs.read(ID)).await;
            assert_eq!(read, lines[..=at].iter().map(line).collect::<Vec<_>>());
            assert_eq!(logs.tail(ID, 700).await.unwrap(), lines[at.saturating_sub(699)..=at]);
        }
    }
    writer.phase("install").await;
    writer.line(b"\x1b[1mbold\x1b[0m\tand \x1b]0;title\x07more").await;
    writer.line(b"  \n").await;
    let running = logs.running(ID).unwrap();
    assert_eq!(running.phase.as_deref(), Some("install"));
    assert_eq!(running.last_line.as_deref(), Some("bold and more"));
    assert_eq!(running.lines, 3002);
    writer.finish().await;
    assert_eq!(logs.tail(ID, 4000).await.unwrap().len(), 3002);
}

/// Followers that begin at any moment, while frames go to disk under them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn following_neither_misses_nor_repeats_a_line() {
    let (logs, _dir) = logs();
    let lines = long_lines(5000);
    let mut writer = logs.start(ID);
    let mut followers = vec![tokio::spawn(all(logs.follow(ID)))];
    for (at, text) in lines.iter().enumerate() {
        writer.line(text.as_bytes()).await;
        if at % 700 == 350 {
            followers.push(tokio::spawn(all(logs.follow(ID))));
        }
    }
    // Half read before the end, half after it.
    let mut halfway = logs.follow(ID);
    for text in &lines[..2500] {
        assert_eq!(halfway.next().await.unwrap(), Some(line(text)));
    }
    assert_eq!(writer.finish().await.lines, 5000);
    let expected: Vec<_> = lines.iter().map(line).collect();
    for follower in followers {
        assert!(follower.await.unwrap() == expected);
    }
    assert!(all(halfway).await == expected[2500..]);
}

#[tokio::test]
async fn a_follower_sees_a_line_at_once_and_a_cancelled_wait_loses_none() {
    let (logs, _dir) = logs();
    let mut writer = logs.start(ID);
    let mut follow = logs.follow(ID);
    for at in 0..10 {
        {
            let mut waiting = Box::pin(follow.next());
            assert!(futures_util::poll!(&mut waiting).is_pending());
        }
        writer.line(format!("{at}").as_bytes()).await;
        assert_eq!(follow.next().await.unwrap(), Some(line(at.to_string())));
    }
    writer.finish().await;
    assert_eq!(follow.next().await.unwrap(), None);
    assert_eq!(follow.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_log_stops_at_its_limit_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let logs = Logs::with_limit(dir.path(), 100).unwrap();
    let mut writer = logs.start(ID);
    for at in 0..30 {
        writer.line(format!("line {at:04}").as_bytes()).await;
    }
    writer.phase("too late").await;
    assert_eq!(writer.finish().await, LogSummary { lines: 30, dropped: 20 });
    let entries = all(logs.read(ID)).await;
    assert_eq!(entries.len(), 11);
    assert_eq!(entries[10], Entry::Truncated { limit: 100 });
    assert!(entries[10].remark().unwrap().contains("limit of 100 bytes"));

    let mut writer = Logs::open(dir.path()).unwrap().start(AttemptId(2));
    writer.line(&vec![b'x'; LINE_BYTES + 5]).await;
    writer.finish().await;
    let entries = all(logs.read(AttemptId(2))).await;
    let Entry::Line(text) = &entries[0] else {
        panic!("{entries:?}")
    };
    assert!(text.ends_with("x [cut: the line had 65541 bytes]"));
}

/// What a killed daemon or a bad disk leaves: whole frames are read, and the end is stated.
#[tokio::test]
async fn a_file_cut_off_anywhere_is_read_up_to_there() {
    let (logs, dir) = logs();
    let lines = long_lines(2000);
    let mut writer = logs.start(ID);
    for text in &lines {
        writer.line(text.as_bytes()).await;
    }
    writer.finish().await;
    let whole = std::fs::read(file(&dir)).unwrap();
    let other = Logs::open(dir.path()).unwrap();
    let mut lengths: Vec<usize> = (0..whole.len()).step_by(whole.len() / 40).collect();
    lengths.extend([1, 19, 20, 21, whole.len() - 1]);
    for length in lengths {
        std::fs::write(file(&dir), &whole[..length]).unwrap();
        let mut entries = all(other.read(ID)).await;
        assert_eq!(entries.pop(), Some(Entry::Broken), "cut at {length}");
        assert_eq!(entries, lines[..entries.len()].iter().map(line).collect::<Vec<_>>());
        let tail = other.tail(ID, 3).await.unwrap();
        assert_eq!(tail, lines[entries.len().saturating_sub(3)..entries.len()]);
    }
    for (at, length) in [(whole.len() / 2, 1), (25, 1), (0, 4), (8, 4)] {
        let mut damaged = whole.clone();
        for byte in &mut damaged[at..at + length] {
            *byte ^= 0xff;
        }
        std::fs::write(file(&dir), &damaged).unwrap();
        let mut entries = all(other.read(ID)).await;
        assert_eq!(entries.pop(), Some(Entry::Broken), "damaged at {at}");
        assert!(entries.len() < lines.len());
        assert_eq!(entries, lines[..entries.len()].iter().map(line).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_writer_that_is_dropped_keeps_its_lines_and_says_that_it_did_not_end() {
    let (logs, _dir) = logs();
    let mut writer = logs.start(ID);
    writer.line(b"so far").await;
    let follow = logs.follow(ID);
    drop(writer);
    assert_eq!(all(follow).await, [line("so far"), Entry::Broken]);
    assert_eq!(all(logs.read(ID)).await, [line("so far"), Entry::Broken]);
    assert_eq!(logs.running(ID), None);
}

#[tokio::test]
async fn a_log_that_cannot_be_written_says_what_is_missing_and_goes_on_to_its_end() {
    let (logs, dir) = logs();
    // A file stands where the folder should be made.
    std::fs::File::create(dir.path().join("1"))
        .unwrap()
        .write_all(b"x")
        .unwrap();
    let mut writer = logs.start(ID);
    let follow = logs.follow(ID);
    let lines = long_lines(1000);
    for text in &lines {
        writer.line(text.as_bytes()).await;
    }
    std::fs::remove_file(dir.path().join("1")).unwrap();
    let summary = writer.finish().await;
    assert_eq!((summary.lines, summary.dropped), (1000, 1000));
    assert_eq!(all(logs.read(ID)).await, [Entry::Unwritten]);
    assert_eq!(all(follow).await.pop(), Some(Entry::Unwritten));
}

#[test]
fn plain_text_is_what_a_reader_of_the_terminal_saw() {
    for (text, limit, expected) in [
        ("plain", 200, "plain"),
        ("\u{1b}[1;31mred\u{1b}[0m", 200, "red"),
        ("\u{1b}]8;;https://x\u{1b}\\link\u{1b}]8;;\u{1b}\\ end", 200, "link end"),
        ("10%\r50%\r100%\r", 200, "100%"),
        ("a\tb\u{7}", 200, "a b"),
        ("äöü", 2, "äö"),
        ("cut \u{1b}[3", 200, "cut"),
    ] {
        assert_eq!(plain_text(text, limit), expected, "{text:?}");
    }
}
