//! JSON objects that are read into a struct.

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A JSON object, and nothing else. What is derived alone reads an array too, by the order of its fields; another reader
/// sees nothing in that.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_no_object() {
        #[derive(Debug, serde::Deserialize)]
        struct Two {
            a: u8,
            b: u8,
        }
        let Object(two) = serde_json::from_str::<Object<Two>>(r#"{"b":2,"a":1}"#).unwrap();
        assert_eq!((two.a, two.b), (1, 2));
        for other in ["[1,2]", "null", "1", "\"a\"", r#"{"a":1,"a":1,"b":2}"#] {
            assert!(serde_json::from_str::<Object<Two>>(other).is_err(), "{other}");
        }
    }
}
