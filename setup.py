"""Builds fpq._native: one Cython module over the C files of csrc/. All else is in pyproject.toml.

Environment variables: FPQ_OPENMP=0 builds without threads, FPQ_SANITIZE=1 with the sanitizers for
addresses and undefined behaviour; CC, CFLAGS and LDFLAGS as everywhere.
"""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext  # Cython's own
from setuptools.errors import CompileError, LinkError
from setuptools.modified import newer_group

# csrc/isa/NAME.c: platforms, flags for GCC and Clang, flags for MSVC.
ISAS = {
    name.strip(): (tuple(platforms.split()) or ("",), gcc, msvc)
    for line in Path("csrc/isa/flags.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
    for name, platforms, gcc, msvc in [line.split("|")]
}
# GCC aligns the stack of Windows functions to 16 bytes but stores vectors as if to 32 (bug 54412).
MINGW = "-fno-asynchronous-unwind-tables -Wa,-muse-unaligned-vector-move"
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"
OPENMP_PROGRAM = """
#include <omp.h>
int main(void) { return omp_get_max_threads() < 1; }
"""
# Older compilers than GCC 11 and Clang 12 do not know AVX-VNNI; the others of ISAS have been known for longer.
AVXVNNI_PROGRAM = """
#include <immintrin.h>
int main(void) {
    const __m256i x = _mm256_setzero_si256();
    return _mm256_testz_si256(x, _mm256_dpbusd_avx_epi32(x, x, x));
}
"""


def c_files(*endings):
    return sorted(path.as_posix() for path in Path("csrc").rglob("*") if path.suffix in endings)


class BuildExt(build_ext):
    def build_extension(self, ext):
        self.choose_flags()
        stamp = Path(self.build_temp, "flags.txt")
        compiler = [getattr(self.compiler, name, "") for name in ("compiler_so", "linker_so")]
        used = repr((compiler, self.flags, self.c_flags, self.link_flags))
        if not stamp.exists() or stamp.read_text() != used:
            self.force = True
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = pool.map(lambda file: self.compile_c(ext, file), c_files(".c"))
            ext.extra_objects = [name for names in objects for name in names]
        ext.depends += ext.extra_objects
        ext.extra_compile_args, ext.extra_link_args = self.flags, self.link_flags
        super().build_extension(ext)
        stamp.write_text(used)

    def choose_flags(self):
        """Set flags (for all files), c_flags (for those of csrc/ in addition) and link_flags."""
        self.msvc = self.compiler.compiler_type == "msvc"
        if self.msvc:
            # /GL-: whole-program optimisation could move AVX code to where it is not checked for.
            self.flags = ["/O2", "/GL-", "/std:c11", "/fp:precise"]
            self.c_flags, self.link_flags = [], []
            openmp, link_openmp = ["/openmp"], []
        else:
            self.flags = ["-std=c11", "-O2", "-g0", "-fvisibility=hidden"]
            self.c_flags = "-O3 -ffp-contract=off -fno-math-errno -Wall -Wextra".split()
            self.link_flags = []
            openmp, link_openmp = ["-fopenmp"], ["-fopenmp"]
            if sys.platform == "darwin":
                openmp, link_openmp = ["-Xpreprocessor", "-fopenmp"], ["-lomp"]
            if os.environ.get("FPQ_SANITIZE", "0") == "1":
                self.flags += [*SANITIZE.split(), "-O1", "-g", "-fno-omit-frame-pointer"]
                self.c_flags.remove("-O3")
                self.link_flags += SANITIZE.split()
        self.left_out = []
        is_x86 = self.plat_name.endswith(ISAS["avxvnni"][0])
        if is_x86 and not self.builds(AVXVNNI_PROGRAM, self.flags_of("avxvnni"), []):
            print("fpq: the compiler does not know AVX-VNNI, so fpq will not use it", file=sys.stderr)
            self.left_out = ["avxvnni"]
            self.flags.append("-DFPQ_NO_AVXVNNI")
        if os.environ.get("FPQ_OPENMP", "1") == "0":
            print("fpq: FPQ_OPENMP=0: no OpenMP, so fpq will use one thread", file=sys.stderr)
        elif not self.builds(OPENMP_PROGRAM, openmp, link_openmp):
            print("fpq: OpenMP does not work here, fpq will use one thread", file=sys.stderr)
        else:
            self.c_flags += openmp
            self.link_flags += link_openmp

    def builds(self, program, flags, link_flags):
        """Whether a program compiles and links."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "program.c")
            file.write_text(program)
            options = {"output_dir": folder}
            try:
                objects = self.compiler.compile([str(file)], extra_postargs=flags, **options)
                options["extra_postargs"] = link_flags
                self.compiler.link_executable(objects, "program", **options)
            except (CompileError, LinkError):
                return False
        return True

    def flags_of(self, isa):
        """Compiler flags of csrc/isa/<isa>.c."""
        _, gcc, msvc = ISAS[isa]
        flags = (msvc if self.msvc else gcc).split()
        if sys.platform == "win32" and gcc.strip() and not self.msvc:
            flags += MINGW.split()
        if sys.platform == "darwin":  # where one command may compile for both processors
            flags = [word for flag in flags for word in ("-Xarch_x86_64", flag)]
        return flags

    def compile_c(self, ext, file):
        """Compile a C file unless its object is up to date; [object], or [] if not for here."""
        folder, name = Path(file).parent.name, Path(file).stem
        if folder == "selftest":
            return []
        isa_flags = []
        if folder == "isa":
            if name in self.left_out or not self.plat_name.endswith(ISAS[name][0]):
                return []
            isa_flags = self.flags_of(name)
        objects = self.compiler.object_filenames([file], output_dir=self.build_temp)
        if self.force or newer_group([file, *ext.depends], objects[0]):
            self.compiler.compile(
                [file],
                output_dir=self.build_temp,
                include_dirs=ext.include_dirs,
                extra_postargs=[*self.flags, *self.c_flags, *isa_flags],
            )
        return objects


setup(
    ext_modules=[
        Extension(
            "fpq._native",
            ["src/fpq/_native.pyx"],
            include_dirs=["csrc"],
            depends=[
                "setup.py",
                "csrc/isa/flags.txt",
                "src/fpq/_fpq.pxd",
                "src/fpq/_codes.pxi",
                "src/fpq/_lsh.pxi",
                "src/fpq/_minhash.pxi",
                "src/fpq/_refine.pxi",
                "src/fpq/_maxsim.pxi",
                "src/fpq/_search.pxi",
                *c_files(".h", ".inc"),
            ],
        )
    ],
    cmdclass={"build_ext": BuildExt},
)
