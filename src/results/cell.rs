//! One cell of a CSV file as serde sees it: the same types as in a whole row, without the row.

use serde::de::value::Error;
use serde::de::{Deserializer, IntoDeserializer, Visitor, value::BorrowedStrDeserializer};
use serde::forward_to_deserialize_any;

/// The text of a cell.
pub struct Cell<'de>(pub &'de str);

/// pandas writes whole numbers of a column with empty cells as 3.0.
fn whole(text: &str) -> &str {
    match text.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0') => whole,
        _ => text,
    }
}

/// Python writes True, Excel TRUE.
fn boolean(text: &str) -> &str {
    match text {
        "True" | "TRUE" => "true",
        "False" | "FALSE" => "false",
        _ => text,
    }
}

fn as_it_is(text: &str) -> &str {
    text
}

macro_rules! parsed {
    ($($method:ident $visit:ident $type:ty, $clean:ident;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let value: $type = $clean(self.0).parse().map_err(serde::de::Error::custom)?;
            visitor.$visit(value)
        })*
    };
}

impl<'de> Deserializer<'de> for Cell<'de> {
    type Error = Error;

    parsed! {
        deserialize_u32 visit_u32 u32, whole;
        deserialize_u64 visit_u64 u64, whole;
        deserialize_f64 visit_f64 f64, as_it_is;
        deserialize_bool visit_bool bool, boolean;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_empty() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.into_deserializer().deserialize_enum(name, variants, visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        BorrowedStrDeserializer::new(self.0).deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u128 f32 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}
