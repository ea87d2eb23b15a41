//! UUIDs of GPUs and MIG devices as the driver, tools and programs spell them. Pure.

/// The 32 hexadecimal digits of a UUID in lower case, however its case, its prefix (`GPU-`, `MIG-` or none)
/// and its dashes are written; `None` for a text that is no UUID.
pub fn digits(text: &str) -> Option<String> {
    let prefix = text.get(..4).filter(|p| p.eq_ignore_ascii_case("GPU-") || p.eq_ignore_ascii_case("MIG-"));
    let rest = &text[prefix.map_or(0, str::len)..];
    let digits: String = rest.chars().filter(|&c| c != '-').collect();
    let is_uuid = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_uuid.then(|| digits.to_ascii_lowercase())
}

/// Does this text name a device: a UUID, or a MIG device as drivers before R470 do
/// (`MIG-GPU-<uuid>/<gi>/<ci>`)?
pub fn names_a_device(text: &str) -> bool {
    let before_r470 = || {
        let mut parts = text.strip_prefix("MIG-")?.split('/');
        let ids = [digits(parts.next()?).is_some(), is_id(parts.next()?), is_id(parts.next()?)];
        Some(ids == [true; 3] && parts.next().is_none())
    };
    digits(text).is_some() || before_r470() == Some(true)
}

fn is_id(text: &str) -> bool {
    text.parse::<u32>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_its_digits() {
        let plain = "5a5a0000000350008000000000000aBc";
        for spelling in [
            "MIG-5a5a0000-0003-5000-8000-000000000abc",
            "GPU-5A5A0000-0003-5000-8000-000000000ABC",
            "gpu-5a5a0000-0003-5000-8000-000000000abc",
            "5a5a0000-0003-5000-8000-000000000abc",
            plain,
        ] {
            assert_eq!(digits(spelling), Some(plain.to_lowercase()), "{spelling}");
            assert!(names_a_device(spelling));
        }
        for other in [
            "",
            "-",
            "cuda:0",
            "0",
            "GPU-",
            "GPU-5a5a0000",
            "MIG-1g.10gb",
            "é5a5a",
            "GPU-5a5a0000-0003-5000-8000-000000000abg",
        ] {
            assert_eq!(digits(other), None, "{other}");
            assert!(!names_a_device(other), "{other}");
        }
        let old = "MIG-GPU-5a5a0000-0003-5000-8000-000000000abc/1/0";
        assert!(digits(old).is_none() && names_a_device(old));
        assert!(!names_a_device(&old.replace("/1/0", "/1")) && !names_a_device(&old.replace("/0", "/x")));
    }
}
