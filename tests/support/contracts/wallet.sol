// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// A stand-in for a smart contract wallet: what its owner has signed is signed by it (ERC-1271).
contract Wallet {
    address public owner;
    uint256 public waste;

    /// Let every check of a signature burn that many rounds of hashing.
    function setWaste(uint256 rounds) external {
        waste = rounds;
    }

    function setOwner(address owner_) external {
        owner = owner_;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature)
        external
        view
        returns (bytes4)
    {
        bytes32 burnt = digest;
        for (uint256 i = 0; i < waste; i++) burnt = keccak256(abi.encode(burnt));
        if (signature.length < 65 || burnt == 0) return 0xffffffff;
        // What comes behind the signature is this wallet's own, as with real ones.
        address signer = ecrecover(
            digest,
            uint8(signature[64]),
            bytes32(signature[0:32]),
            bytes32(signature[32:64])
        );
        return signer != address(0) && signer == owner ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }

    function approve(address token, address spender) external {
        (bool done, ) = token.call(
            abi.encodeWithSignature("approve(address,uint256)", spender, type(uint256).max)
        );
        require(done, "Wallet: not approved");
    }
}
