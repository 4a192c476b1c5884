//! Watching a forward pass: an observer is handed every intermediate under the path that PyTorch's `named_modules`
//! would give the module whose output it is.
//!
//! A module that PyTorch calls is a scope; what it returns is emitted under the scope's path. When nobody watches, no
//! path is built and nothing is copied.

use ndarray::{ArrayView, ArrayViewD, Dimension};

/// Somebody who watches a forward pass.
pub trait Observer<T> {
    /// Whether the value of this path would be used. Where it is not, it may not be computed at all.
    fn wants(&self, path: &str) -> bool;

    /// A value, in the order of computation.
    fn observe(&mut self, path: &str, value: ArrayViewD<'_, T>);
}

/// An observer, or none, and where in the model the computation stands.
pub struct Trace<'o, T> {
    observer: Option<&'o mut dyn Observer<T>>,
    path: String,
}

impl<'o, T> Trace<'o, T> {
    /// Nobody watches.
    pub fn off() -> Self {
        Self { observer: None, path: String::new() }
    }

    /// `observer` watches.
    pub fn to(observer: &'o mut dyn Observer<T>) -> Self {
        Self { observer: Some(observer), path: String::new() }
    }

    /// Whether nobody watches.
    pub fn is_off(&self) -> bool {
        self.observer.is_none()
    }

    /// Computes `body` inside the module `name` of the present one.
    pub fn within<R>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> R) -> R {
        if self.observer.is_none() {
            return body(self);
        }
        let outer = self.path.len();
        self.push(name);
        let result = body(self);
        self.path.truncate(outer);
        result
    }

    /// Whether somebody wants the value `name` of the present module.
    pub fn wants(&mut self, name: &str) -> bool {
        let outer = self.path.len();
        if self.observer.is_none() {
            return false;
        }
        self.push(name);
        let wanted = self.observer.as_ref().is_some_and(|o| o.wants(&self.path));
        self.path.truncate(outer);
        wanted
    }

    /// Hands over the value `name` of the present module; the module's own output where `name` is empty.
    pub fn emit<D: Dimension>(&mut self, name: &str, value: ArrayView<'_, T, D>) {
        let outer = self.path.len();
        if self.observer.is_none() {
            return;
        }
        self.push(name);
        if let Some(observer) = self.observer.as_mut()
            && observer.wants(&self.path)
        {
            observer.observe(&self.path, value.into_dyn());
        }
        self.path.truncate(outer);
    }

    fn push(&mut self, name: &str) {
        if !self.path.is_empty() && !name.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, array};

    use super::*;

    struct List(Vec<(String, Vec<f64>)>);

    impl Observer<f64> for List {
        fn wants(&self, path: &str) -> bool {
            !path.ends_with("secret")
        }

        fn observe(&mut self, path: &str, value: ArrayViewD<'_, f64>) {
            self.0.push((path.to_owned(), value.iter().copied().collect()));
        }
    }

    fn model(trace: &mut Trace<'_, f64>) -> Array1<f64> {
        trace.within("deberta", |t| {
            t.within("layer.0", |t| t.emit("dense", array![1.0].view()));
            t.emit("secret", array![2.0].view());
            assert_eq!(t.wants("dense"), t.observer.is_some());
            assert!(!t.wants("secret"));
            let out = array![3.0];
            t.emit("", out.view());
            out
        })
    }

    #[test]
    fn paths_nest_and_come_in_order() {
        let mut list = List(Vec::new());
        assert_eq!(model(&mut Trace::to(&mut list)), model(&mut Trace::off()));
        assert_eq!(list.0, [("deberta.layer.0.dense".to_owned(), vec![1.0]), ("deberta".to_owned(), vec![3.0])]);
    }
}
