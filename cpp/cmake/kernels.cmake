# One file per instruction set, compiled for it; dispatch.cpp looks at run time which of them the processor has.

# GCC aligns the stack to 16 bytes on Windows and spills wider vectors there as if it were aligned to 32 and 64 (its bug
# 54412), which ends programs. Debian's compiler is patched; elsewhere the assembler writes moves that need no alignment.
set(unaligned "")
if(MINGW AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-Wa,-muse-unaligned-vector-move SWINV2_UNALIGNED_MOVES)  # binutils 2.38
  if(SWINV2_UNALIGNED_MOVES)
    set(unaligned -Wa,-muse-unaligned-vector-move)
  endif()
endif()

function(swinv2_kernels name msvc others)
  set(file ${CMAKE_CURRENT_SOURCE_DIR}/src/kernels/${name}.cpp)
  target_sources(swinv2_objects PRIVATE ${file})
  if(MSVC AND CMAKE_CXX_COMPILER_ID STREQUAL "Clang")  # clang-cl: its own options, behind a prefix
    list(TRANSFORM others PREPEND "/clang:")
    set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "/clang:-O3;/clang:-fno-math-errno;${others}")
  elseif(MSVC)
    set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${msvc}")
  else()
    set(gcc "$<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized;-Wno-maybe-uninitialized>")  # GCC 12 says that of its headers
    set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "-O3;-fno-math-errno;${gcc};${unaligned};${others}")
  endif()
endfunction()

set(processor ${CMAKE_SYSTEM_PROCESSOR})
if(MSVC)  # where that is the machine which compiles, whatever it compiles for
  set(processor ${CMAKE_CXX_COMPILER_ARCHITECTURE_ID})
endif()
if(processor MATCHES "^(x86_64|AMD64|amd64|x64)$")
  set(avx2 -mavx2 -mfma)
  set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
  swinv2_kernels(avx2 "/arch:AVX2" "${avx2}")
  swinv2_kernels(avx2_vnni "/arch:AVX2" "${avx2};-mavxvnni")
  swinv2_kernels(avx512 "/arch:AVX512" "${avx512}")
  swinv2_kernels(avx512_vnni "/arch:AVX512" "${avx512};-mavx512vnni")
  swinv2_kernels(avx512_bf16 "/arch:AVX512" "${avx512};-mavx512vnni;-mavx512bf16")
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-mamx-int8 SWINV2_TILES)  # GCC 11, Clang 12
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND SWINV2_TILES)  # dispatch.cpp asks no other system for them
    swinv2_kernels(avx512_amx "" "${avx512};-mavx512vnni;-mavx512bf16;-mamx-tile;-mamx-int8;-mamx-bf16")
    set_source_files_properties(src/kernels/dispatch.cpp PROPERTIES COMPILE_DEFINITIONS SWINV2_AMX=1)
  endif()
elseif(processor MATCHES "^(aarch64|arm64|ARM64)$")
  # GCC 12 loads all rows before their products otherwise, and spills two sums in every step of the tallest tile.
  set(neon $<$<CXX_COMPILER_ID:GNU>:-fno-schedule-insns>)
  swinv2_kernels(neon "" "${neon}")
  swinv2_kernels(neon_dot "" "${neon};-march=armv8.2-a+dotprod")
  if(NOT MSVC)  # which has no bfloat16 of NEON; dispatch.cpp asks Windows for dot products only
    swinv2_kernels(neon_bf16 "" "${neon};-march=armv8.2-a+dotprod+bf16")
    swinv2_kernels(neon_i8mm "" "${neon};-march=armv8.2-a+dotprod+bf16+i8mm")
  endif()
elseif(EMSCRIPTEN)
  swinv2_kernels(simd128 "" "")  # wasm.cmake gives the vectors to all files: dispatch.cpp cannot ask a browser
endif()
