//! The closed list of Python names that a checkpoint may hold, and what the others would do.
//!
//! Everything on the list is read as data: a call of it is recognised by its name and arguments, or kept as an inert value.
//! The list says what is *expected*; that nothing is run does not depend on it.

/// A global outside the closed list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedGlobal {
    /// The Python module.
    pub module: String,
    /// The name within it.
    pub name: String,
    /// What importing and calling it would do, in plain words.
    pub effect: &'static str,
    /// The call as the pickle asks for it, shortened; `None` where it only names the global.
    pub call: Option<String>,
}

impl std::fmt::Display for RefusedGlobal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { module, name, effect, call } = self;
        write!(
            f,
            "the pickle asks Python for {}.{}, which would {effect}",
            module.escape_debug(),
            name.escape_debug()
        )?;
        match call {
            Some(call) => write!(f, " (it asks for {call})"),
            None => Ok(()),
        }
    }
}

/// What this crate makes of a global.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Part of a tensor.
    Tensor,
    /// Harmless data beside the tensors: listed, never interpreted.
    Data,
    /// Not on the list.
    Refused,
}

/// Looks a global up.
pub(crate) fn verdict(module: &str, name: &str) -> Verdict {
    let within = |list: &[(&str, &[&str])]| list.iter().any(|(m, names)| *m == module && names.contains(&name));
    if within(TENSOR) {
        Verdict::Tensor
    } else if within(DATA) {
        Verdict::Data
    } else {
        Verdict::Refused
    }
}

/// What `torch.save` writes for tensors, parameters and state dictionaries, of 0.4 to 2.x.
const TENSOR: &[(&str, &[&str])] = &[
    ("collections", &["OrderedDict"]),
    (
        "torch._utils",
        &[
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
            "_rebuild_sparse_tensor",
            "_rebuild_sparse_csr_tensor",
            "_rebuild_nested_tensor",
            "_rebuild_qtensor",
            "_rebuild_meta_tensor_no_storage",
            "_rebuild_device_tensor_from_numpy",
            "_rebuild_device_tensor_from_cpu_tensor",
        ],
    ),
    ("torch._tensor", &["_rebuild_from_type_v2"]),
    ("torch.nn.parameter", &["Parameter", "Buffer", "UninitializedParameter", "UninitializedBuffer"]),
    ("torch.serialization", &["_get_layout"]),
    (
        "torch",
        &[
            "Tensor",
            "Size",
            "device",
            "FloatStorage",
            "DoubleStorage",
            "HalfStorage",
            "BFloat16Storage",
            "ByteStorage",
            "CharStorage",
            "ShortStorage",
            "IntStorage",
            "LongStorage",
            "BoolStorage",
            "ComplexFloatStorage",
            "ComplexDoubleStorage",
            "QInt8Storage",
            "QUInt8Storage",
            "QInt32Storage",
            "QUInt4x2Storage",
            "QUInt2x4Storage",
            "float32",
            "float64",
            "float16",
            "bfloat16",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "int8",
            "int16",
            "int32",
            "int64",
            "bool",
            "complex32",
            "complex64",
            "complex128",
            "float8_e4m3fn",
            "float8_e5m2",
            "float8_e4m3fnuz",
            "float8_e5m2fnuz",
            "float8_e8m0fnu",
            "float4_e2m1fn_x2",
            "qint8",
            "quint8",
            "qint32",
            "quint4x2",
            "quint2x4",
            "per_tensor_affine",
            "per_channel_affine",
            "strided",
            "sparse_coo",
            "sparse_csr",
            "contiguous_format",
            "channels_last",
            "preserve_format",
        ],
    ),
    ("torch.storage", &["UntypedStorage", "_UntypedStorage", "TypedStorage", "_TypedStorage"]),
];

/// What training programs keep beside the tensors.
const DATA: &[(&str, &[&str])] = &[
    ("collections", &["defaultdict", "Counter", "deque"]),
    (
        "builtins",
        &[
            "dict",
            "list",
            "tuple",
            "set",
            "frozenset",
            "int",
            "float",
            "complex",
            "bool",
            "str",
            "bytes",
            "bytearray",
            "slice",
            "range",
            "object",
        ],
    ),
    (
        "__builtin__",
        &[
            "dict",
            "list",
            "tuple",
            "set",
            "frozenset",
            "int",
            "long",
            "float",
            "complex",
            "bool",
            "str",
            "unicode",
            "bytearray",
            "slice",
            "xrange",
            "object",
        ],
    ),
    ("copyreg", &["_reconstructor"]),
    ("copy_reg", &["_reconstructor"]),
    ("_codecs", &["encode"]),
    ("argparse", &["Namespace"]),
    ("datetime", &["datetime", "date", "timedelta", "timezone"]),
    ("pathlib", &["Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"]),
    ("pathlib._local", &["Path", "PosixPath", "WindowsPath"]),
    (
        "numpy",
        &["dtype", "ndarray", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool_"],
    ),
    ("numpy.core.multiarray", &["scalar", "_reconstruct"]),
    ("numpy._core.multiarray", &["scalar", "_reconstruct"]),
    ("numpy.core.numeric", &["_frombuffer"]),
    ("numpy._core.numeric", &["_frombuffer"]),
    (
        "numpy.dtypes",
        &["Float16DType", "Float32DType", "Float64DType", "Int32DType", "Int64DType", "UInt8DType", "BoolDType"],
    ),
    ("DeBERTa.deberta.config", &["ModelConfig", "AbsModelConfig"]),
    ("deberta.config", &["ModelConfig", "AbsModelConfig"]),
    ("transformers.models.deberta_v2.configuration_deberta_v2", &["DebertaV2Config"]),
    ("transformers.configuration_deberta_v2", &["DebertaV2Config"]),
];

/// What a refused global would do, in words that need no knowledge of Python. Guessed from well-known names: the text is
/// for people, no decision rests on it.
pub(crate) fn effect(module: &str, name: &str) -> &'static str {
    let top = module.split('.').next().unwrap_or(module);
    let last = name.rsplit('.').next().unwrap_or(name);
    match (top, last) {
        ("os" | "posix" | "nt", "system" | "popen" | "startfile") | ("commands", _) => "run a shell command",
        ("os" | "posix" | "nt", "remove" | "unlink" | "rmdir" | "removedirs" | "rename" | "replace")
        | ("shutil", _) => "delete, move or overwrite files",
        ("os" | "posix" | "nt", n) if n.starts_with("exec") || n.starts_with("spawn") || n.starts_with("fork") => {
            "start another program"
        }
        ("os" | "posix" | "nt", _) => "call the operating system",
        ("subprocess" | "pty" | "multiprocessing" | "asyncio" | "concurrent", _) => "start another program",
        ("pydoc", "pipepager" | "tempfilepager") => "run a shell command",
        ("builtins" | "__builtin__", "eval" | "exec" | "execfile" | "compile") => {
            "run Python code that the file carries"
        }
        ("builtins" | "__builtin__", "__import__") | ("importlib" | "imp" | "pkgutil", _) => {
            "import any Python module, which runs its code"
        }
        ("builtins" | "__builtin__", "getattr" | "setattr" | "delattr" | "apply" | "globals" | "locals" | "vars") => {
            "reach into Python itself and from there call anything"
        }
        ("builtins" | "__builtin__", "open" | "file") | ("io" | "codecs", "open") => {
            "open files for reading or writing"
        }
        ("builtins" | "__builtin__", "input" | "raw_input" | "breakpoint") => "stop and wait for commands",
        ("operator" | "functools" | "types", _) => "assemble a call of anything else",
        ("runpy" | "code" | "codeop" | "bdb" | "pdb" | "trace" | "timeit" | "cProfile" | "profile" | "doctest", _) => {
            "run Python code that the file carries"
        }
        ("pickle" | "_pickle" | "cPickle" | "dill" | "cloudpickle" | "joblib" | "marshal" | "shelve", _) => {
            "unpack a second, hidden pickle and run it"
        }
        ("torch", "load") => "load another file, and run what its pickle says",
        ("torch", "compile_file") => "compile and run code",
        ("torch", _) if module.starts_with("torch.nn.modules") => {
            "build a whole torch module, code included; save model.state_dict() instead of the model"
        }
        ("torch", _) if module.starts_with("torch.jit") || module.starts_with("torch._C") => "build TorchScript code",
        ("transformers", _) => {
            "build an object of the transformers library; save model.state_dict() instead of the object"
        }
        (
            "socket" | "ssl" | "http" | "httplib" | "urllib" | "urllib2" | "urllib3" | "requests" | "aiohttp"
            | "ftplib" | "smtplib" | "telnetlib",
            _,
        ) => "open a network connection",
        ("webbrowser", _) => "open a web page",
        ("pip" | "setuptools" | "ensurepip" | "venv" | "distutils", _) => "install or create Python software",
        ("ctypes" | "cffi" | "_ctypes", _) => "run machine code outside Python",
        ("sys", "exit") | ("builtins" | "__builtin__", "exit" | "quit") => "end the program",
        ("sys", _) => "change the running Python",
        ("tempfile" | "glob" | "fileinput", _) => "read or write files",
        ("__main__", _) => {
            "build an object of the script that saved the file; save model.state_dict() instead of the object"
        }
        _ => "import that module and run whatever it defines under that name",
    }
}
