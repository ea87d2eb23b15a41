//! The user's own program: how it is called on an instance, what it may say, and what it may leave
//! behind. No process is started here ([`crate::measure::program`] does), no time is read.

pub mod line;
pub mod trtexec;

use crate::machine::{Instance, text};
use serde::{Deserialize, Serialize};

/// A program as the user gave it; placeholders stand for what differs between instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// How long it may say nothing, in ns.
    pub deadline_ns: u64,
    /// The file that trtexec leaves behind.
    pub import: Option<String>,
}

/// A program as it is started on one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// How long it may say nothing, in ns.
    pub deadline_ns: u64,
    /// The file that trtexec leaves behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<String>,
}

/// What the placeholders stand for.
struct Place<'a> {
    instance: &'a Instance,
    index: usize,
    batch: u64,
}

impl Template {
    /// For the instance at `index` of those that measure, and a batch size.
    pub fn on(&self, instance: &Instance, index: usize, batch: u64) -> Program {
        let place = Place { instance, index, batch };
        Program {
            arguments: self.arguments.iter().map(|argument| place.fill(argument)).collect(),
            deadline_ns: self.deadline_ns,
            import: self.import.as_ref().map(|file| place.fill(file)),
        }
    }

    /// The command line as a shell would take it, placeholders unfilled: the same on every instance.
    pub fn text(&self) -> String {
        let words: Vec<String> = self.arguments.iter().map(|argument| quoted(argument)).collect();
        let text = words.join(" ");
        // A spreadsheet takes a row's cell for a formula by its first character.
        let text = if text.starts_with(['=', '+', '-', '@']) {
            format!("'{}'{}", &text[..1], &text[1..])
        } else {
            text
        };
        text::cell(&text).into_owned()
    }
}

impl Place<'_> {
    /// Other braces are the program's own.
    fn fill(&self, text: &str) -> String {
        let kind = self.instance.kind.to_string();
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            let (before, from) = rest.split_at(at);
            filled.push_str(before);
            let name = from[1..].split_once('}').map(|(name, _)| name);
            let value = match name {
                Some("uuid") => Some(self.instance.uuid().unwrap_or(&kind).to_owned()),
                Some("profile") => Some(self.instance.profile.as_deref().unwrap_or(&kind).to_owned()),
                Some("index") => Some(self.index.to_string()),
                Some("batch") => Some(self.batch.to_string()),
                _ => None,
            };
            let taken = match (value, name) {
                (Some(value), Some(name)) => {
                    filled.push_str(&value);
                    name.len() + 2
                }
                _ => {
                    filled.push('{');
                    1
                }
            };
            rest = &from[taken..];
        }
        filled + rest
    }
}

/// One word of a shell's command line, without line breaks and semicolons.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_@%+=:,./{}-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    // A row lists its co-runners between semicolons.
    if word.chars().any(|c| !text::is_visible(c) || c == ';') {
        let escaped: String = word
            .chars()
            .map(|c| match c {
                '\'' | '\\' => format!("\\{c}"),
                ';' => "\\x3b".to_owned(),
                c if c.is_control() => c.escape_default().to_string(),
                c if !text::is_visible(c) => format!("\\U{:08x}", c as u32),
                c => c.to_string(),
            })
            .collect();
        return format!("$'{escaped}'");
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::InstanceKind;

    fn template(arguments: &[&str]) -> Template {
        Template {
            arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
            deadline_ns: 1,
            import: None,
        }
    }

    #[test]
    fn placeholders_are_filled_and_other_braces_left() {
        let instance = Instance {
            kind: InstanceKind::Mig,
            mig_uuid: Some("MIG-1".into()),
            profile: Some("1g.10gb".into()),
            ..Instance::default()
        };
        let template =
            template(&["serve", "--dev={uuid}", "{profile}-{index}", "{\"b\":{batch}}", "{", "{x}{"]);
        assert_eq!(
            template.on(&instance, 3, 32).arguments,
            ["serve", "--dev=MIG-1", "1g.10gb-3", "{\"b\":32}", "{", "{x}{"]
        );
        let cpu = Instance { kind: InstanceKind::Cpu, ..Instance::default() };
        assert_eq!(template.on(&cpu, 0, 1).arguments[1..3], ["--dev=cpu", "cpu-0"]);
    }

    #[test]
    fn the_text_is_one_line_that_a_shell_understands() {
        let template = template(&["sh", "-c", "echo 'a b' > {index}", "", "x=1", "a; b", "two\nlines\t'\\"]);
        assert_eq!(
            template.text(),
            r#"sh -c 'echo '\''a b'\'' > {index}' '' x=1 $'a\x3b b' $'two\nlines\t\'\\'"#
        );
        assert_eq!(self::template(&["-x", "\u{202e}", "##[x]"]).text(), r"'-'x $'\U0000202e' '## [x]'");
    }
}
