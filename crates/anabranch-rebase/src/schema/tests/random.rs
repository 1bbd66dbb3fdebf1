//! Any changes of the schema.
