pub mod event;
pub mod room;
