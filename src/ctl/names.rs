//! Topic names as Kafka takes them (`Topic.java`): what is legal, what collides, what is internal.
//!
//! Not here: whether a topic exists. Called by `decide` and, for `internal`, by `image`.

/// Longest legal topic name; directory names have to fit `<topic>-<partition>` elsewhere.
pub const LENGTH_MAX: usize = 249;

/// What consumer groups committed.
pub const OFFSETS: &str = "__consumer_offsets";

/// Topics that belong to the brokers; Metadata shows them as internal.
const INTERNAL: [&str; 3] = [OFFSETS, "__transaction_state", "__share_group_state"];

/// Checks a topic name.
///
/// # Errors
/// Says which rule of Kafka's it breaks.
pub fn validate(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the empty string is not allowed".into());
    }
    if name == "." || name == ".." {
        return Err(format!("`{name}` is not allowed"));
    }
    if name.len() > LENGTH_MAX {
        return Err(format!("length of {} exceeds the maximum of {LENGTH_MAX}", name.len()));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(format!(
            "`{}` contains a character other than ASCII alphanumerics, `.`, `_` and `-`",
            name.escape_debug()
        ));
    }
    Ok(())
}

/// Whether two different names are the same once `.` and `_` are: metric names do not tell them apart.
pub fn collides(a: &str, b: &str) -> bool {
    let fold = |c: u8| if c == b'.' { b'_' } else { c };
    a != b && a.len() == b.len() && a.bytes().map(fold).eq(b.bytes().map(fold))
}

/// Whether a name can collide with another at all.
pub fn may_collide(name: &str) -> bool {
    name.contains(['.', '_'])
}

/// Whether the topic is one of the brokers' own.
pub fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}
