# WebAssembly with vectors of 128 bits and exceptions, which every browser has since 2023 (Debian: emscripten; its tests
# run in Node.js, over the files of this system).

find_program(SWINV2_EMSCRIPTEN em-config REQUIRED)
execute_process(COMMAND ${SWINV2_EMSCRIPTEN} EMSCRIPTEN_ROOT OUTPUT_VARIABLE emscripten OUTPUT_STRIP_TRAILING_WHITESPACE)
include(${emscripten}/cmake/Modules/Platform/Emscripten.cmake)
set(CMAKE_CXX_FLAGS_INIT "-msimd128 -fwasm-exceptions -Wno-unused-command-line-argument")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-sALLOW_MEMORY_GROWTH -sMAXIMUM_MEMORY=4GB -sTOTAL_STACK=1MB")
