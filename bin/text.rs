//! Small parsers of flags: sizes, durations, key=value. Each error says what is allowed.

use kontiki::broker::config::listeners;
use std::time::Duration;

/// A topic of `dev --topic name:partitions[:rf]`.
pub type TopicSpec = (String, i32, Option<i16>);

/// `name:partitions[:rf]`.
pub fn topic_spec(text: &str) -> Result<TopicSpec, String> {
    let wrong = || format!("`{text}` is not NAME:PARTITIONS[:RF]");
    let mut parts = text.split(':');
    let name = parts.next().filter(|n| !n.is_empty()).ok_or_else(wrong)?;
    let partitions = parts.next().and_then(|p| p.parse().ok()).filter(|p| *p > 0).ok_or_else(wrong)?;
    let rf = match parts.next() {
        None => None,
        Some(rf) => Some(rf.parse().ok().filter(|rf| *rf > 0).ok_or_else(wrong)?),
    };
    if parts.next().is_some() { Err(wrong()) } else { Ok((name.to_owned(), partitions, rf)) }
}

/// `key=value`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

/// `key=value` or `key:value`, whichever sign comes first; a key alone has the value null.
pub fn header(text: &str) -> Result<(String, Option<String>), String> {
    match text.split_once(['=', ':']) {
        Some(("", _)) => Err(format!("`{text}` is not KEY=VALUE")),
        Some((key, value)) => Ok((key.to_owned(), Some(value.to_owned()))),
        None if text.is_empty() => Err("a header needs a name".into()),
        None => Ok((text.to_owned(), None)),
    }
}

/// Kafka's acks.
pub fn acks(text: &str) -> Result<i16, String> {
    match text {
        "all" | "-1" => Ok(-1),
        "0" => Ok(0),
        "1" => Ok(1),
        _ => Err(format!("`{text}` is not all, 1 or 0")),
    }
}

/// `500ms`, `30s`, `5m`, `2h`; a plain number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => f64::NAN,
    };
    let value = number.parse::<f64>().unwrap_or(f64::NAN) * seconds;
    Duration::try_from_secs_f64(value)
        .map_err(|_| format!("`{text}` is not a duration such as 500ms, 30s, 5m"))
}

/// `1024`, `64k`, `1m`, `1g` (powers of 1024), up to 1 GiB.
pub fn size(text: &str) -> Result<usize, String> {
    scaled(text, 1024, 1 << 30)
        .and_then(|n| usize::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("`{text}` is not a size between 1 and 1g, such as 1024, 64k or 1m"))
}

/// Bytes for people: `512 B`, `4.0 KiB`, `1.2 GiB`.
pub fn bytes(n: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// `1000`, `50k`, `1m` (powers of 1000).
pub fn count(text: &str) -> Result<u64, String> {
    scaled(text, 1000, u64::MAX)
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("`{text}` is not a number above 0, such as 1000, 50k or 1m"))
}

fn scaled(text: &str, base: u64, limit: u64) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (number, factor) = match lower.char_indices().next_back()? {
        (at, 'k') => (&lower[..at], base),
        (at, 'm') => (&lower[..at], base * base),
        (at, 'g') => (&lower[..at], base * base * base),
        _ => (lower.as_str(), 1),
    };
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|n| *n <= limit)
}

/// Text with `\t`, `\n`, `\0`, `\\` and `\xHH` resolved.
pub fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('0') => out.push('\0'),
            Some('\\') => out.push('\\'),
            Some('x') => {
                let hex: String = chars.by_ref().take(2).collect();
                let byte = u8::from_str_radix(&hex, 16).ok().filter(u8::is_ascii);
                out.push(char::from(byte.ok_or_else(|| format!("`\\x{hex}` is not an ASCII character"))?));
            }
            _ => return Err(format!("`{text}` has an escape other than \\t \\n \\0 \\\\ \\xHH")),
        }
    }
    if out.is_empty() { Err("must not be empty".into()) } else { Ok(out) }
}

/// Splits `host:port`, also `[v6]:port`.
pub fn host_port(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("`{text}` is not HOST:PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err(wrong());
    }
    Ok((host.to_owned(), port.parse().map_err(|_| wrong())?))
}

/// Addresses by the names of their listeners, as they are kept.
pub fn listeners(text: &str) -> Result<String, String> {
    let all = listeners::parse(text)?;
    Ok(listeners::text(all.iter().map(|(name, at)| (name, at))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_spec_parts_parse() {
        assert_eq!(topic_spec("a:3").unwrap(), ("a".into(), 3, None));
        assert_eq!(topic_spec("a:3:2").unwrap(), ("a".into(), 3, Some(2)));
        for bad in ["a", ":3", "a:0", "a:3:0", "a:3:2:1", "a:x"] {
            assert!(topic_spec(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn header_both_spellings_and_null_parse() {
        assert_eq!(header("a=b:c").unwrap(), ("a".into(), Some("b:c".into())));
        assert_eq!(header("a:b=c").unwrap(), ("a".into(), Some("b=c".into())));
        assert_eq!(header("a=").unwrap(), ("a".into(), Some(String::new())));
        assert_eq!(header("a").unwrap(), ("a".into(), None));
        assert!(header("=b").is_err());
    }

    #[test]
    fn duration_units_parse() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(duration("2").unwrap(), Duration::from_secs(2));
        for bad in ["", "s", "5x", "-1s", "1e9999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn size_suffixes_scale_and_limits_hold() {
        assert_eq!(size("64k").unwrap(), 65536);
        assert_eq!(size("1M").unwrap(), 1 << 20);
        assert_eq!(count("50k").unwrap(), 50_000);
        for bad in ["0", "2g", "k", "1.5k", "99999999999999999999"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unescape_tab_and_hex_resolve() {
        assert_eq!(unescape(r"\t").unwrap(), "\t");
        assert_eq!(unescape(r"a\x3ab\\").unwrap(), "a:b\\");
        for bad in ["", r"\q", r"\xzz", r"\xff"] {
            assert!(unescape(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_port_ipv6_loses_its_brackets() {
        assert_eq!(host_port("[::1]:9092").unwrap(), ("::1".into(), 9092));
        assert_eq!(host_port("h:1").unwrap(), ("h".into(), 1));
        for bad in ["h", ":1", "h:x", "h:70000"] {
            assert!(host_port(bad).is_err(), "{bad}");
        }
    }
}
