# xgrammar's C++ core as the static target `xgrammar`, from its source distribution, pinned by version and hash.
# -DXGRAMMAR_SOURCE_DIR=DIR takes an unpacked one, for builds without a network; -DXGRAMMAR_LIBRARY=FILE takes what
# another build for this machine has made of it.
set(XGRAMMAR_VERSION 0.2.8)
set(XGRAMMAR_SHA256 8305646fd2b319d6c3003f51a1665e54cbbe9cba1fb636bc41d0b46434ccbb80)
set(XGRAMMAR_FILE xgrammar-${XGRAMMAR_VERSION}.tar.gz)
set(XGRAMMAR_SOURCE_DIR "" CACHE PATH "an unpacked ${XGRAMMAR_FILE}; empty to download it")
set(XGRAMMAR_LIBRARY "" CACHE FILEPATH "another build's libxgrammar.a; empty to build it")

# Downloads `url` to `file`; sets `ok` if its hash is right.
function(xgrammar_download url file ok)
  set(${ok} FALSE PARENT_SCOPE)
  file(DOWNLOAD ${url} ${file} STATUS status TLS_VERIFY ON INACTIVITY_TIMEOUT 60)
  list(GET status 0 failed)
  if(NOT failed)
    file(SHA256 ${file} hash)
    if(hash STREQUAL XGRAMMAR_SHA256)
      set(${ok} TRUE PARENT_SCOPE)
    endif()
  endif()
endfunction()

# Sets `url` to the file's address in the package index that pip is configured for; empty if that does not have it.
function(xgrammar_in_index url work)
  set(${url} "" PARENT_SCOPE)
  find_package(Python3 COMPONENTS Interpreter QUIET)
  set(index "$ENV{PIP_INDEX_URL}")
  if(index STREQUAL "" AND Python3_Interpreter_FOUND)
    execute_process(COMMAND ${Python3_EXECUTABLE} -m pip config get global.index-url
                    OUTPUT_VARIABLE index OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  if(index STREQUAL "")
    return()
  endif()
  string(REGEX REPLACE "/+$" "" index "${index}")
  file(DOWNLOAD "${index}/xgrammar/" ${work}/index.html STATUS status INACTIVITY_TIMEOUT 60)
  list(GET status 0 failed)
  if(failed)
    return()
  endif()
  file(READ ${work}/index.html page)
  string(REPLACE "." "\\." pattern ${XGRAMMAR_FILE})
  if(NOT page MATCHES "href=\"([^\"#]*${pattern})[\"#]")
    return()
  endif()
  set(found "${CMAKE_MATCH_1}")
  if(found MATCHES "^/")
    string(REGEX MATCH "^[a-z]+://[^/]+" host "${index}")
    set(found "${host}${found}")
  elseif(NOT found MATCHES "^[a-z]+://")
    set(found "${index}/xgrammar/${found}")
  endif()
  set(${url} "${found}" PARENT_SCOPE)
endfunction()

if(XGRAMMAR_SOURCE_DIR)
  set(xgrammar_source ${XGRAMMAR_SOURCE_DIR})
else()
  set(xgrammar_work ${CMAKE_BINARY_DIR}/_deps/xgrammar)
  set(xgrammar_source ${xgrammar_work}/xgrammar-${XGRAMMAR_VERSION})
  if(NOT EXISTS ${xgrammar_source}/.unpacked)
    set(xgrammar_url https://files.pythonhosted.org/packages/03/0f)
    string(APPEND xgrammar_url /29f521535729be740779c2c98b630ef6607cf28be9b669895dd2b821ff63/${XGRAMMAR_FILE})
    set(xgrammar_archive ${xgrammar_work}/${XGRAMMAR_FILE})
    set(xgrammar_ok FALSE)
    foreach(attempt RANGE 1)
      if(NOT xgrammar_ok)
        xgrammar_download(${xgrammar_url} ${xgrammar_archive} xgrammar_ok)
      endif()
    endforeach()
    if(NOT xgrammar_ok)
      xgrammar_in_index(xgrammar_mirror ${xgrammar_work})
      if(xgrammar_mirror)
        xgrammar_download(${xgrammar_mirror} ${xgrammar_archive} xgrammar_ok)
      endif()
    endif()
    if(NOT xgrammar_ok)
      message(FATAL_ERROR "cannot download ${XGRAMMAR_FILE} (sha256 ${XGRAMMAR_SHA256}) from files.pythonhosted.org or "
                          "pip's index; unpack it yourself and pass -DXGRAMMAR_SOURCE_DIR=DIR")
    endif()
    file(ARCHIVE_EXTRACT INPUT ${xgrammar_archive} DESTINATION ${xgrammar_work}
         PATTERNS xgrammar-${XGRAMMAR_VERSION}/cpp/* xgrammar-${XGRAMMAR_VERSION}/include/*
                  xgrammar-${XGRAMMAR_VERSION}/3rdparty/picojson/* xgrammar-${XGRAMMAR_VERSION}/3rdparty/dlpack/include/*
                  xgrammar-${XGRAMMAR_VERSION}/LICENSE)
    file(REMOVE ${xgrammar_archive})
    file(WRITE ${xgrammar_source}/.unpacked "")
  endif()
endif()
if(NOT EXISTS ${xgrammar_source}/include/xgrammar/matcher.h)
  message(FATAL_ERROR "${xgrammar_source} holds no xgrammar; pass -DXGRAMMAR_SOURCE_DIR=DIR of an unpacked "
                      "${XGRAMMAR_FILE}")
endif()

file(GLOB xgrammar_files ${xgrammar_source}/cpp/*.cc ${xgrammar_source}/cpp/support/*.cc)
list(FILTER xgrammar_files EXCLUDE REGEX "/cpp/(json_schema_converter|lark_converter|structural_tag)\\.cc$")
list(APPEND xgrammar_files ${CMAKE_CURRENT_SOURCE_DIR}/xgrammar_converters.cc)

# Compiles, for `file` in cpp/, a copy of it in which `old`, which is there once, is `new`.
function(xgrammar_mend file old new)
  file(READ ${xgrammar_source}/cpp/${file} text)
  string(FIND "${text}" "${old}" first)
  string(FIND "${text}" "${old}" last REVERSE)
  if(first EQUAL -1 OR NOT first EQUAL last)
    message(FATAL_ERROR "${xgrammar_source}/cpp/${file} is not that of ${XGRAMMAR_FILE}; unpack that one")
  endif()
  string(REPLACE "${old}" "${new}" text "${text}")
  set(mended ${CMAKE_BINARY_DIR}/_deps/xgrammar/mended/${file})
  file(CONFIGURE OUTPUT ${mended} CONTENT "${text}" @ONLY)
  string(REPLACE "." "\\." pattern ${file})
  list(FILTER xgrammar_files EXCLUDE REGEX "/cpp/${pattern}$")
  list(APPEND xgrammar_files ${mended})
  set(xgrammar_files ${xgrammar_files} PARENT_SCOPE)
endfunction()

# 0.2.8 takes a token for a continuation of another that it merely contains, and then masks tokens that are allowed.
xgrammar_mend(tokenizer_info.cc
  "token.find(prefix_stack.top().first) == std::string::npos"
  "token.compare(0, prefix_stack.top().first.size(), prefix_stack.top().first) != 0")

# Its character classes hold more than UTF-8: surrogates, and in regular expressions the overlong forms of three and
# four bytes. This cuts each range, whose ends are packed bytes, into the runs of well-formed ones (RFC 3629, section 4).
xgrammar_mend(fsm_builder.cc
  "void AddPackedUTF8RangeEdges(FSM& fsm, int from, int to, uint32_t min, uint32_t max) {"
  "static void AddRunEdges(FSM& fsm, int from, int to, uint32_t min, uint32_t max);

void AddPackedUTF8RangeEdges(FSM& fsm, int from, int to, uint32_t min, uint32_t max) {
  static const uint32_t kRuns[][2] = {
      {0, 0x7F}, {0xC280, 0xDFBF}, {0xE0A080, 0xED9FBF}, {0xEE8080, 0xEFBFBF}, {0xF0908080, 0xF48FBFBF}};
  for (const auto& run : kRuns) {
    const uint32_t low = std::max(min, run[0]), high = std::min(max, run[1]);
    if (low <= high) AddRunEdges(fsm, from, to, low, high);
  }
}

static void AddRunEdges(FSM& fsm, int from, int to, uint32_t min, uint32_t max) {")

if(XGRAMMAR_LIBRARY)
  add_library(xgrammar STATIC IMPORTED GLOBAL)
  set_target_properties(xgrammar PROPERTIES IMPORTED_LOCATION ${XGRAMMAR_LIBRARY})
  set(xgrammar_scope INTERFACE)
else()
  add_library(xgrammar STATIC EXCLUDE_FROM_ALL ${xgrammar_files})
  # Its warnings are not ours to mend. Optimised in every configuration: its compiler of grammars is a hundred times the
  # work of the code around it. What no one calls is dropped when linking.
  target_compile_options(xgrammar PRIVATE -w -O2 -ffunction-sections -fdata-sections)
  set(xgrammar_scope PUBLIC)
endif()
target_include_directories(xgrammar SYSTEM ${xgrammar_scope} ${xgrammar_source}/include
                           ${xgrammar_source}/3rdparty/picojson ${xgrammar_source}/3rdparty/dlpack/include)
# grammar_compiler.cc reads compiled grammars and receives messages.
target_include_directories(xgrammar SYSTEM ${xgrammar_scope} ${xgrammar_source}/cpp)
target_compile_definitions(xgrammar ${xgrammar_scope} XGRAMMAR_LOG_CUSTOMIZE=1 XGRAMMAR_ENABLE_CPPTRACE=0
                                                      XGRAMMAR_ENABLE_INTERNAL_CHECK=0)
target_link_libraries(xgrammar ${xgrammar_scope} Threads::Threads)
if(NOT APPLE)
  target_link_options(xgrammar INTERFACE -Wl,--gc-sections)
endif()
