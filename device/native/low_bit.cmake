# The kernel of low-bit products, which is compiled for several instruction sets and chooses at run time. A row must be
# rounded alike wherever it stands in a call: no contraction that the code does not ask for. Loops of registers need -O3.
set(EDGE_MTP_LOW_BIT)
foreach(name low_bit low_bit_avx2 low_bit_avx512 low_bit_baseline low_bit_dotprod)
  list(APPEND EDGE_MTP_LOW_BIT ${CMAKE_CURRENT_LIST_DIR}/${name}.cc)
endforeach()
set_source_files_properties(${EDGE_MTP_LOW_BIT} PROPERTIES COMPILE_OPTIONS "-O3;-ffp-contract=off")
function(edge_mtp_low_bit_for name)
  set_source_files_properties(${CMAKE_CURRENT_FUNCTION_LIST_DIR}/low_bit_${name}.cc
    PROPERTIES COMPILE_OPTIONS "-O3;-ffp-contract=off;${ARGN}")
endfunction()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  edge_mtp_low_bit_for(avx2 -mavx2 -mfma -mf16c)
  edge_mtp_low_bit_for(avx512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512vnni)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64|ARM64")
  edge_mtp_low_bit_for(dotprod -march=armv8.2-a+dotprod)
endif()
