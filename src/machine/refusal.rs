//! NVML's refusals as text: `NVML 4: no permission`, and back to the number.

/// What NVML's codes mean, in words.
const MEANINGS: [(u32, &str); 31] = [
    (1, "not initialised"),
    (2, "invalid argument"),
    (3, "not supported"),
    (4, "no permission"),
    (5, "already initialised"),
    (6, "not found"),
    (7, "insufficient size"),
    (8, "insufficient power"),
    (9, "driver not loaded"),
    (10, "timeout"),
    (11, "interrupt issue"),
    (12, "library not found"),
    (13, "function not found"),
    (14, "corrupted InfoROM"),
    (15, "the GPU is lost"),
    (16, "a reset is required"),
    (17, "blocked by the operating system"),
    (18, "driver and library versions differ"),
    (19, "in use"),
    (20, "out of memory"),
    (21, "no data"),
    (22, "ECC not supported on a virtual GPU"),
    (23, "insufficient resources"),
    (24, "frequency not supported"),
    (25, "version of an argument not supported"),
    (26, "deprecated"),
    (27, "not ready"),
    (28, "no GPU found"),
    (29, "invalid state"),
    (30, "reset type not supported"),
    (999, "unknown error"),
];

/// NVML's own: asked for something that this user may not.
pub const NO_PERMISSION: u32 = 4;
/// NVML's own: the library is older than the function.
pub const FUNCTION_NOT_FOUND: u32 = 13;
/// NVML's own: the GPU has fallen off the bus.
pub const GPU_IS_LOST: u32 = 15;

/// `NVML 4: no permission`.
pub fn text(code: u32) -> String {
    match MEANINGS.iter().find(|(known, _)| *known == code) {
        Some((_, meaning)) => format!("NVML {code}: {meaning}"),
        None => format!("NVML {code}"),
    }
}

/// The code in such a text.
pub fn code(text: &str) -> Option<u32> {
    let rest = text.strip_prefix("NVML ")?;
    rest.split(':').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_its_text() {
        for number in 0..1000 {
            assert_eq!(code(&text(number)), Some(number));
        }
        assert_eq!(code("nvidia-smi -L does not say it"), None);
    }
}
