//! The house rules that the compiler and clippy cannot see, run as an ordinary test over the source tree.
//! Not a linter for style: every rule here keeps a promise of ARCHITECTURE.md or CONTRIBUTING.md. Uses std alone.
//!
//! - imports run one way (`bin -> {broker, client}`, `broker -> ctl -> raftlog -> segment`, `wire` imports nothing);
//! - every file says first what it is (`//!`); no file over 800 and no function over 70 lines of product code, but
//!   for flat match tables;
//! - no `unwrap`, `todo!`, `unimplemented!`, `dbg!`, unbounded channel or `anyhow` in product code; no clock or
//!   randomness in pure code; `unsafe` in one file, each with its reason;
//! - nothing unexpected at the top level, no catch-all module names, no mention of where the code was written.
//!
//! Each rule has a test that shows it bites.

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
/// A function may be longer if it is one match with at least this many arms...
const TABLE_ARMS_MIN: usize = 8;
/// ...each at most this long...
const TABLE_ARM_LINES_MAX: usize = 12;
/// ...and at most this much around it.
const TABLE_REST_LINES_MAX: usize = 30;

/// The one file that may hold `unsafe`: the segment maps and their SIGBUS handler.
const UNSAFE_FILE: &str = "src/segment/map.rs";

const TOP_LEVEL: &[&str] = &[
    ".ci",
    ".dockerignore",
    ".git",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "benches",
    "bin",
    "clippy.toml",
    "compose.yaml",
    "docs",
    "examples",
    "fuzz",
    "rustfmt.toml",
    "src",
    "target",
    "tests",
];
const LAYERS: &[&str] = &["broker", "client", "ctl", "raftlog", "segment", "wire"];
/// Not a layer: switches that break rules in test builds, for the layers that keep the rules.
const SWITCHES: &str = "mutation";
const SWITCHED: &[&str] = &["broker", "ctl", "raftlog", "segment"];

/// Banned in product code, with what to use.
const BANNED: &[(&str, &str)] = &[
    (".unwrap()", "use expect(\"why it cannot fail\") or return the error"),
    (".unwrap_err()", "match on the result"),
    ("todo!", "finish it"),
    ("unimplemented!", "finish it"),
    ("dbg!", "use tracing"),
    ("unbounded_channel", "use a bounded channel and name its limit"),
    ("unbounded(", "use a bounded channel and name its limit"),
    ("mpsc::channel()", "use sync_channel and name its limit"),
    ("too_many_lines", "split the function"),
];
/// Banned in pure code: time and randomness are arguments there.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    ".elapsed()",
    "Timestamp::now",
    "thread::sleep",
    "tokio::time",
    "rand::rng",
    "rand::random",
    "thread_rng",
    "from_os_rng",
    "Uuid::new_v4",
];
/// Marks of the place the code was written at and of package hosts; spelled in two halves so that this file passes.
const FOREIGN_WORDS: &[&str] = &[
    concat!("/wor", "k/"),
    concat!(".lib", "rary/"),
    concat!("/root", "/."),
    concat!("shared/", "design.md"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("repo1.", "maven"),
    concat!("repo.", "maven"),
    concat!("proxy.golang", ".org"),
    concat!("registry.npm", "js"),
    concat!("deb.deb", "ian.org"),
    concat!("index.crates", ".io"),
];

// ---------------------------------------------------------------------------------------------------------------
// Reading Rust well enough: comments and literals blanked, test code blanked. Lines and columns stay in place.

/// Where a comment or literal that starts at `at` ends, if one starts there.
fn skip_non_code(text: &[u8], at: usize) -> Option<usize> {
    let rest = &text[at..];
    let word_before = at > 0 && (text[at - 1].is_ascii_alphanumeric() || text[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return Some(at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        let (mut depth, mut i) = (1, at + 2);
        while depth > 0 && i < text.len() {
            match text[i..].get(..2) {
                Some(b"/*") => (depth, i) = (depth + 1, i + 2),
                Some(b"*/") => (depth, i) = (depth - 1, i + 2),
                _ => i += 1,
            }
        }
        return Some(i);
    }
    let raw = rest.iter().take(2).take_while(|&&b| b == b'b' || b == b'c').count();
    if !word_before && rest.get(raw) == Some(&b'r') {
        let hashes = rest[raw + 1..].iter().take_while(|&&b| b == b'#').count();
        if rest.get(raw + 1 + hashes) == Some(&b'"') {
            let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            let body = raw + 2 + hashes;
            let end = rest[body..].windows(close.len()).position(|w| w == close);
            return Some(end.map_or(text.len(), |e| at + body + e + close.len()));
        }
    }
    if rest[0] == b'"' {
        let mut i = at + 1;
        while i < text.len() && text[i] != b'"' {
            i += if text[i] == b'\\' { 2 } else { 1 };
        }
        return Some((i + 1).min(text.len()));
    }
    if rest[0] == b'\'' {
        // A character literal; a lifetime has no closing quote where one would be.
        if rest.get(1) == Some(&b'\\') {
            let close = rest[2..].iter().skip(1).position(|&b| b == b'\'');
            return close.map(|c| at + 4 + c);
        }
        let width = rest[1..].iter().take(5).position(|&b| b == b'\'');
        let one_char = width
            .filter(|&w| w > 0 && std::str::from_utf8(&rest[1..1 + w]).is_ok_and(|s| s.chars().count() == 1));
        return one_char.map(|w| at + w + 2);
    }
    None
}

fn blank(text: &mut [u8], from: usize, to: usize) {
    for byte in &mut text[from..to] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

/// The same text with comments and literals blanked.
fn code_only(text: &str) -> String {
    let source = text.as_bytes();
    let mut out = source.to_vec();
    let mut i = 0;
    while i < source.len() {
        match skip_non_code(source, i) {
            Some(end) => {
                blank(&mut out, i, end);
                i = end.max(i + 1);
            }
            None => i += 1,
        }
    }
    String::from_utf8(out).expect("blanked literals leave ASCII around whole characters")
}

/// Index after the bracket that closes the one at `open`.
fn matching(code: &[u8], open: usize) -> usize {
    let mut depth = 0usize;
    for (i, byte) in code.iter().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return i + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// End of the item that starts at `from`: after its closing brace, or its semicolon.
fn item_end(code: &[u8], from: usize) -> usize {
    let mut i = from;
    while i < code.len() {
        match code[i] {
            b'(' | b'[' => i = matching(code, i),
            b'{' => return matching(code, i),
            b';' => return i + 1,
            _ => i += 1,
        }
    }
    code.len()
}

/// Blanks every item under `#[cfg(test)]` and says how many lines that were.
fn without_tests(code: &str) -> (String, usize) {
    let mut out = code.as_bytes().to_vec();
    let mut lines = 0;
    let mut at = 0;
    while let Some(found) = code[at..].find("#[cfg(test)]") {
        let from = at + found;
        let end = item_end(code.as_bytes(), from + "#[cfg(test)]".len());
        lines += code[from..end].lines().count();
        blank(&mut out, from, end);
        at = end;
    }
    (String::from_utf8(out).expect("blanked items leave whole characters"), lines)
}

fn line_of(code: &str, at: usize) -> usize {
    code.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Positions of `needle` in `code` that do not begin inside a longer word.
fn occurrences(code: &str, needle: &str) -> Vec<usize> {
    let starts_word = is_word(needle.as_bytes()[0]);
    let ends_word = is_word(needle.as_bytes()[needle.len() - 1]);
    code.match_indices(needle)
        .map(|(at, _)| at)
        .filter(|&at| !starts_word || at == 0 || !is_word(code.as_bytes()[at - 1]))
        .filter(|&at| !ends_word || !code.as_bytes().get(at + needle.len()).copied().is_some_and(is_word))
        .collect()
}

// ---------------------------------------------------------------------------------------------------------------
// Rules over one file. Each gets the path as seen from the root, with forward slashes.

fn is_test_path(path: &str) -> bool {
    path.starts_with("tests/")
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
        || path.contains("/tests/")
}

fn is_pure(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let shell = match path.split('/').nth(1) {
        Some("raftlog") => name == "shell.rs" || path.contains("transport"),
        Some("segment") => name == "io_thread.rs" || name == "fs.rs" || path.contains("/fs/"),
        Some("ctl") => false,
        // What consumer groups do is as pure as what controllers decide.
        Some("broker") => !path.starts_with("src/broker/groups/"),
        _ => true,
    };
    path.starts_with("src/") && !shell && path.split('/').count() > 2
}

/// What module `from` may import of ours: whole layers, or single parts of one.
fn may_import(path: &str, layer: &str, part: &str) -> bool {
    let record_parts = layer == "wire" && (part == "batch" || part == "record");
    if layer == SWITCHES {
        return SWITCHED.iter().any(|known| path.starts_with(&format!("src/{known}/")));
    }
    match path.split('/').nth(1).filter(|_| path.starts_with("src/")) {
        Some("lib.rs") => true,
        Some("wire") => layer == "wire",
        Some("segment") => layer == "segment" || record_parts,
        Some("raftlog") => matches!(layer, "raftlog" | "segment") || record_parts,
        Some("ctl") => matches!(layer, "ctl" | "raftlog" | "segment"),
        Some("broker") => layer != "client",
        Some("client") => matches!(layer, "client" | "wire"),
        // A benchmark measures whatever layer it names.
        None if path.starts_with("benches/") => true,
        // Commands: `dump` opens the files of a stopped node, everything else goes through broker or client.
        _ => matches!(layer, "broker" | "client" | "wire") || (layer == "segment" && path.contains("dump")),
    }
}

/// Every `(layer, part)` named after `crate::` or `kontiki::` in `code`, with its position.
fn imports(code: &str) -> Vec<(usize, String, String)> {
    let mut found = Vec::new();
    for root in ["crate::", "kontiki::"] {
        for at in occurrences(code, root) {
            for path in group_members(&code[at + root.len()..]) {
                let layer = first_word(path);
                if !LAYERS.contains(&layer) && layer != SWITCHES {
                    continue;
                }
                let rest = path[layer.len()..].trim_start_matches("::");
                let parts =
                    if rest.len() == path.len() - layer.len() { vec![""] } else { group_members(rest) };
                found.extend(parts.iter().map(|part| (at, layer.to_string(), first_word(part).to_string())));
            }
        }
    }
    found
}

fn first_word(path: &str) -> &str {
    &path[..path.bytes().position(|b| !is_word(b)).unwrap_or(path.len())]
}

/// The paths of a `use` group, or the one path that is no group.
fn group_members(rest: &str) -> Vec<&str> {
    if !rest.starts_with('{') {
        return vec![rest];
    }
    split_group(&rest[1..matching(rest.as_bytes(), 0) - 1]).into_iter().map(str::trim).collect()
}

/// Splits the inside of a `use` group at its own commas.
fn split_group(inside: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (i, byte) in inside.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&inside[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[start..]);
    parts
}

/// Name, first line, last line and body of every function.
fn functions(code: &str) -> Vec<(String, usize, usize, (usize, usize))> {
    let mut found = Vec::new();
    for at in occurrences(code, "fn") {
        let rest = &code[at + 2..];
        let name: String =
            rest.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() {
            continue; // a function pointer type
        }
        let bytes = code.as_bytes();
        let mut i = at;
        while i < bytes.len() && bytes[i] != b'{' && bytes[i] != b';' {
            i = if matches!(bytes[i], b'(' | b'[') { matching(bytes, i) } else { i + 1 };
        }
        if bytes.get(i) == Some(&b'{') {
            let end = matching(bytes, i);
            found.push((name, line_of(code, at), line_of(code, end - 1), (i, end)));
        }
    }
    found
}

/// Whether a body is one long match of many short arms: a table, which reads well at any length.
fn is_flat_table(code: &str, body: (usize, usize)) -> bool {
    let text = &code[body.0..body.1];
    let bytes = text.as_bytes();
    let total = text.lines().count();
    occurrences(text, "match").into_iter().any(|at| {
        let mut open = at;
        while open < bytes.len() && bytes[open] != b'{' {
            open = if matches!(bytes[open], b'(' | b'[') { matching(bytes, open) } else { open + 1 };
        }
        if open >= bytes.len() {
            return false;
        }
        let end = matching(bytes, open);
        let mut arms = Vec::new();
        let mut i = open + 1;
        while i + 1 < end {
            match bytes[i] {
                b'{' | b'(' | b'[' => i = matching(bytes, i),
                b'=' if bytes[i + 1] == b'>' => {
                    arms.push(line_of(text, i));
                    i += 2;
                }
                _ => i += 1,
            }
        }
        arms.push(line_of(text, end - 1));
        let rest = total.saturating_sub(line_of(text, end - 1) - line_of(text, open) + 1);
        arms.len() > TABLE_ARMS_MIN
            && rest <= TABLE_REST_LINES_MAX
            && arms.windows(2).all(|w| w[1] - w[0] <= TABLE_ARM_LINES_MAX)
    })
}

/// Every rule over one Rust file: what is wrong, as `path:line: text`.
fn check_rust(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if !text.starts_with("//!") {
        wrong.push(format!("{path}:1: the first line must be `//!` and say what the file is"));
    }
    if text.contains(concat!("TO", "DO")) && !text.contains(concat!("TO", "DO(#")) {
        wrong.push(format!("{path}: an open end without its issue number"));
    }
    if is_test_path(path) {
        return wrong;
    }
    let whole = code_only(text);
    let (code, test_lines) = without_tests(&whole);
    check_sizes(path, text, &code, test_lines, &mut wrong);
    check_bans(path, text, &code, &mut wrong);
    for (at, layer, part) in imports(&code) {
        if !may_import(path, &layer, &part) {
            wrong.push(format!("{path}:{}: may not import {layer}::{part}", line_of(&code, at)));
        }
    }
    wrong
}

fn check_sizes(path: &str, text: &str, code: &str, test_lines: usize, wrong: &mut Vec<String>) {
    let lines = text.lines().count().saturating_sub(test_lines);
    if lines > FILE_LINES_MAX {
        wrong.push(format!("{path}: {lines} lines without tests, at most {FILE_LINES_MAX}"));
    }
    for (name, first, last, body) in functions(code) {
        let lines = last - first + 1;
        if lines > FUNCTION_LINES_MAX && !is_flat_table(code, body) {
            wrong.push(format!("{path}:{first}: fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}"));
        }
    }
}

fn ban(path: &str, code: &str, needle: &str, instead: &str, wrong: &mut Vec<String>) {
    for at in occurrences(code, needle) {
        wrong.push(format!("{path}:{}: `{needle}`: {instead}", line_of(code, at)));
    }
}

fn check_bans(path: &str, text: &str, code: &str, wrong: &mut Vec<String>) {
    for (needle, instead) in BANNED {
        ban(path, code, needle, instead, wrong);
    }
    // `anyhow::Error` as a type is what the codec crate's functions return.
    for at in occurrences(code, "anyhow").into_iter().filter(|&at| !code[at..].starts_with("anyhow::Error")) {
        if path.starts_with("src/") {
            wrong.push(format!(
                "{path}:{}: `anyhow` is for bin/; a typed error of the layer here",
                line_of(code, at)
            ));
        }
    }
    if is_pure(path) && !path.starts_with("src/client") {
        for needle in IMPURE {
            ban(path, code, needle, "time and randomness are arguments in pure code", wrong);
        }
    }
    for at in occurrences(code, "unsafe") {
        let line = line_of(code, at);
        if path != UNSAFE_FILE {
            wrong.push(format!("{path}:{line}: `unsafe` belongs in {UNSAFE_FILE} alone"));
        } else if !text.lines().skip(line.saturating_sub(6)).take(6).any(|l| l.contains("SAFETY:")) {
            wrong.push(format!("{path}:{line}: `unsafe` without a `// SAFETY:` above it"));
        }
    }
}

/// Rules over any text file.
fn check_text(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for word in FOREIGN_WORDS {
        for (at, _) in text.match_indices(word) {
            wrong.push(format!("{path}:{}: `{word}` names a place outside the project", line_of(text, at)));
        }
    }
    wrong
}

/// Rules over names: the top level, the layers, no catch-all modules.
fn check_path(path: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut parts = path.split('/');
    let top = parts.next().unwrap_or("");
    if !TOP_LEVEL.contains(&top) {
        wrong.push(format!("{path}: nothing called {top} belongs at the top level"));
    }
    if top == "src" && !parts.next().is_some_and(|p| p == "lib.rs" || p == SWITCHES || LAYERS.contains(&p)) {
        wrong.push(format!("{path}: not one of the layers {LAYERS:?}"));
    }
    let catch_all = ["utils", "util", "helpers", "common", "misc"];
    let stem = |part: &str| part.strip_suffix(".rs").map_or(part.to_string(), str::to_string);
    if path.ends_with(".rs") && path.split('/').any(|p| catch_all.contains(&stem(p).as_str())) {
        wrong.push(format!("{path}: name it after what it does"));
    }
    wrong
}

// ---------------------------------------------------------------------------------------------------------------

fn files(root: &Path, below: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(below).expect("readable").map(|e| e.expect("an entry")).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name();
        if name == "target" || name == ".git" || name == "__pycache__" || name == "node_modules" {
            continue;
        }
        if entry.file_type().expect("a type").is_dir() {
            files(root, &path, found);
        } else {
            found.push(path.strip_prefix(root).expect("below the root").to_path_buf());
        }
    }
}

#[test]
fn source_tree_keeps_the_house_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    files(root, root, &mut found);
    assert!(found.len() > 20, "only {} files below {}", found.len(), root.display());
    let mut wrong = Vec::new();
    for file in found {
        let path = file.to_string_lossy().replace('\\', "/");
        wrong.extend(check_path(&path));
        let Ok(text) = fs::read_to_string(root.join(&file)) else { continue };
        if path != "Cargo.lock" {
            wrong.extend(check_text(&path, &text));
        }
        if path.ends_with(".rs") {
            wrong.extend(check_rust(&path, &text));
        }
    }
    assert!(wrong.is_empty(), "{} broken rules:\n{}", wrong.len(), wrong.join("\n"));
}

// ---------------------------------------------------------------------------------------------------------------
// The rules themselves.

#[track_caller]
fn bites(path: &str, text: &str, word: &str) {
    let wrong = check_rust(path, text);
    assert!(wrong.iter().any(|w| w.contains(word)), "{word:?} not found in {wrong:?}");
}

#[track_caller]
fn passes(path: &str, text: &str) {
    let wrong = check_rust(path, text);
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn file_without_header_is_refused() {
    bites("src/wire/a.rs", "use std::fs;\n", "//!");
    bites("tests/a.rs", "// no header\n", "//!");
    passes("src/wire/a.rs", "//! A.\n");
}

#[test]
fn import_against_the_direction_is_refused() {
    bites("src/segment/a.rs", "//! A.\nuse crate::raftlog::core::Core;\n", "raftlog::core");
    bites("src/segment/a.rs", "//! A.\nuse crate::wire::frame::Frame;\n", "wire::frame");
    bites("src/raftlog/a.rs", "//! A.\nuse crate::{segment::X, ctl::{image, Y}};\n", "ctl::image");
    bites("src/segment/a.rs", "//! A.\nuse crate::wire::{batch, frame};\n", "wire::frame");
    bites("src/raftlog/a.rs", "//! A.\nfn f() { crate::broker::x() }\n", "broker::x");
    bites("src/wire/a.rs", "//! A.\nuse crate::segment::Offset;\n", "segment::Offset");
    bites("src/broker/a.rs", "//! A.\nuse crate::client::Client;\n", "client::Client");
    bites("src/client/a.rs", "//! A.\nuse crate::broker::Node;\n", "broker::Node");
    bites("bin/topic.rs", "//! A.\nuse kontiki::ctl::image::Image;\n", "ctl::image");
    bites("bin/topic.rs", "//! A.\nuse kontiki::segment::Store;\n", "segment::Store");
    bites("bin/topic.rs", "//! A.\nuse kontiki::mutation::on;\n", "mutation::on");
    bites("src/wire/a.rs", "//! A.\nuse crate::mutation::on;\n", "mutation::on");
}

#[test]
fn import_along_the_direction_passes() {
    passes("src/segment/a.rs", "//! A.\nuse crate::wire::{batch::Header, record};\nuse super::types;\n");
    passes("src/segment/a.rs", "//! A.\nuse crate::{segment::{A, B}, wire::{batch, record}};\n");
    passes("src/broker/a.rs", "//! A.\nuse crate::{ctl::image, raftlog, segment, wire};\n");
    passes("src/segment/a.rs", "//! A.\nuse crate::mutation::{Mutation, on};\n");
    passes("src/ctl/a.rs", "//! A.\nuse crate::segment::NodeId; // not crate::broker::x\n");
    passes("bin/dump.rs", "//! A.\nuse kontiki::segment::Store;\n");
    passes("src/segment/a.rs", "//! A.\n#[cfg(test)]\nmod tests { use crate::client::x; }\n");
}

#[test]
fn long_file_is_refused_but_for_its_tests() {
    let line = "const A: u8 = 1;\n";
    bites("src/wire/a.rs", &format!("//! A.\n{}", line.repeat(FILE_LINES_MAX)), "lines without tests");
    passes("src/wire/a.rs", &format!("//! A.\n{}", line.repeat(FILE_LINES_MAX - 1)));
    passes(
        "src/wire/a.rs",
        &format!("//! A.\n#[cfg(test)]\nmod tests {{\n{}}}\n", line.repeat(2 * FILE_LINES_MAX)),
    );
    passes("src/wire/tests.rs", &format!("//! A.\n{}", line.repeat(2 * FILE_LINES_MAX)));
}

#[test]
fn long_function_is_refused_but_for_a_flat_table() {
    let long = format!("//! A.\nfn long() {{\n{}}}\n", "    step();\n".repeat(FUNCTION_LINES_MAX));
    bites("src/wire/a.rs", &long, "fn long has 72 lines");
    let edge = format!("//! A.\nfn edge() {{\n{}}}\n", "    step();\n".repeat(FUNCTION_LINES_MAX - 2));
    passes("src/wire/a.rs", &edge);
    let arms = "        Key::A => {\n            one();\n        }\n".repeat(40);
    passes("src/wire/a.rs", &format!("//! A.\nfn table() {{\n    match key {{\n{arms}    }}\n}}\n"));
    let fat = "        Key::A => {\n".to_string() + &"            one();\n".repeat(13) + "        }\n";
    bites(
        "src/wire/a.rs",
        &format!("//! A.\nfn fat() {{\n    match key {{\n{}    }}\n}}\n", fat.repeat(9)),
        "fn fat",
    );
    let few = "        Key::A => {\n            one();\n        }\n".repeat(5);
    let tail = "    step();\n".repeat(60);
    bites(
        "src/wire/a.rs",
        &format!("//! A.\nfn few() {{\n    match key {{\n{few}    }}\n{tail}}}\n"),
        "fn few",
    );
}

#[test]
fn banned_words_are_refused_outside_tests() {
    for (needle, _) in BANNED {
        let line = format!("//! A.\nfn f() {{ x{needle}y; {needle} }}\n");
        bites("src/wire/a.rs", &line, needle);
        passes("src/wire/tests.rs", &line);
        passes("src/wire/a.rs", &format!("//! A.\n#[cfg(test)]\nmod tests {{ fn f() {{ {needle} }} }}\n"));
        passes("src/wire/a.rs", &format!("//! A.\n// {needle}\nconst A: &str = \"{needle}\";\n"));
    }
    bites("src/broker/a.rs", "//! A.\nuse anyhow::Result;\n", "anyhow");
    passes("bin/kontiki.rs", "//! A.\nuse anyhow::Result;\n");
    passes("src/client/a.rs", "//! A.\nfn f(e: anyhow::Error) {}\n");
}

#[test]
fn clock_and_randomness_are_refused_in_pure_code_alone() {
    for needle in IMPURE {
        let line = format!("//! A.\nfn f() {{ {needle} }}\n");
        for pure in [
            "src/raftlog/core/a.rs",
            "src/raftlog/engine.rs",
            "src/ctl/a.rs",
            "src/segment/store.rs",
            "src/broker/groups/a.rs",
        ] {
            bites(pure, &line, needle);
        }
        for shell in [
            "src/raftlog/shell.rs",
            "src/raftlog/transport/tcp.rs",
            "src/segment/io_thread.rs",
            "src/segment/fs.rs",
            "src/broker/net.rs",
            "bin/bench.rs",
        ] {
            passes(shell, &line);
        }
    }
}

#[test]
fn unsafe_is_refused_outside_its_file_and_without_a_reason() {
    let with = "//! A.\n// SAFETY: checked above.\nfn f() { unsafe { g() } }\n";
    bites("src/segment/store.rs", with, "alone");
    bites(UNSAFE_FILE, "//! A.\nfn f() { unsafe { g() } }\n", "SAFETY");
    passes(UNSAFE_FILE, with);
    passes("src/segment/store.rs", "//! A.\n#![deny(unsafe_code)]\n");
}

#[test]
fn open_end_without_issue_is_refused() {
    bites("src/wire/a.rs", concat!("//! A.\n// TO", "DO later\n"), "open end");
    passes("src/wire/a.rs", concat!("//! A.\n// TO", "DO(#12): later\n"));
}

#[test]
fn stray_names_are_refused() {
    assert!(!check_path("plan.md").is_empty());
    assert!(!check_path("src/server/mod.rs").is_empty());
    assert!(!check_path("src/wire/utils.rs").is_empty());
    assert!(!check_path("src/broker/helpers/a.rs").is_empty());
    for fine in ["src/lib.rs", "src/wire/batch.rs", "README.md", ".ci/run", "docs/testing.md"] {
        assert_eq!(check_path(fine), Vec::<String>::new());
    }
}

#[test]
fn places_outside_the_project_are_refused() {
    for word in FOREIGN_WORDS {
        assert!(!check_text("docs/a.md", &format!("see {word}x\n")).is_empty(), "{word}");
    }
    assert!(check_text("docs/a.md", "workers share a library\n").is_empty());
}

#[test]
fn literals_and_comments_are_not_code() {
    let text = "let a = \"x // \\\" {\"; /* { /* */ { */ let b = 'x'; let c: &'static str = r#\"\"{\"#; let d = '\\''; let e = b'{'; f(); // {\n";
    let code = code_only(text);
    assert_eq!(code.len(), text.len());
    assert!(!code.contains('{') && code.contains("f();") && code.contains("&'static str"), "{code}");
}
