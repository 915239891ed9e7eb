// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

interface IToken {
    function transferFrom(address from, address to, uint256 value) external returns (bool);
}

/// A stand-in for Uniswap's Permit2, written from its documentation: transfers by signature with a
/// witness, one or many at once, and their nonces. It is not Permit2: allowances by signature and
/// compact signatures are left out.
contract Permit2StandIn {
    struct TokenPermissions {
        address token;
        uint256 amount;
    }
    struct PermitTransferFrom {
        TokenPermissions permitted;
        uint256 nonce;
        uint256 deadline;
    }
    struct PermitBatchTransferFrom {
        TokenPermissions[] permitted;
        uint256 nonce;
        uint256 deadline;
    }
    struct SignatureTransferDetails {
        address to;
        uint256 requestedAmount;
    }

    error InvalidNonce();
    error InvalidAmount(uint256 maxAmount);
    error LengthMismatch();
    error SignatureExpired(uint256 signatureDeadline);
    error InvalidSigner();
    error InvalidSignatureLength();
    error InvalidContractSignature();

    event UnorderedNonceInvalidation(address indexed owner, uint256 word, uint256 mask);

    mapping(address => mapping(uint256 => uint256)) public nonceBitmap;

    bytes32 private constant TOKEN_PERMISSIONS =
        keccak256("TokenPermissions(address token,uint256 amount)");
    string private constant SINGLE =
        "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,";
    string private constant BATCH =
        "PermitBatchWitnessTransferFrom(TokenPermissions[] permitted,address spender,uint256 nonce,uint256 deadline,";

    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        return
            keccak256(
                abi.encode(
                    keccak256("EIP712Domain(string name,uint256 chainId,address verifyingContract)"),
                    keccak256("Permit2"),
                    block.chainid,
                    address(this)
                )
            );
    }

    function permitWitnessTransferFrom(
        PermitTransferFrom memory permit,
        SignatureTransferDetails calldata transferDetails,
        address owner,
        bytes32 witness,
        string calldata witnessTypeString,
        bytes calldata signature
    ) external {
        bytes32 content = keccak256(
            abi.encode(
                keccak256(abi.encodePacked(SINGLE, witnessTypeString)),
                _hashed(permit.permitted),
                msg.sender,
                permit.nonce,
                permit.deadline,
                witness
            )
        );
        if (block.timestamp > permit.deadline) revert SignatureExpired(permit.deadline);
        if (transferDetails.requestedAmount > permit.permitted.amount)
            revert InvalidAmount(permit.permitted.amount);
        _use(owner, permit.nonce);
        _verify(owner, content, signature);
        _move(permit.permitted.token, owner, transferDetails);
    }

    function permitWitnessTransferFrom(
        PermitBatchTransferFrom memory permit,
        SignatureTransferDetails[] calldata transferDetails,
        address owner,
        bytes32 witness,
        string calldata witnessTypeString,
        bytes calldata signature
    ) external {
        bytes32[] memory hashes = new bytes32[](permit.permitted.length);
        for (uint256 i = 0; i < hashes.length; i++) hashes[i] = _hashed(permit.permitted[i]);
        bytes32 content = keccak256(
            abi.encode(
                keccak256(abi.encodePacked(BATCH, witnessTypeString)),
                keccak256(abi.encodePacked(hashes)),
                msg.sender,
                permit.nonce,
                permit.deadline,
                witness
            )
        );
        if (block.timestamp > permit.deadline) revert SignatureExpired(permit.deadline);
        if (hashes.length != transferDetails.length) revert LengthMismatch();
        _use(owner, permit.nonce);
        _verify(owner, content, signature);
        for (uint256 i = 0; i < hashes.length; i++) {
            if (transferDetails[i].requestedAmount > permit.permitted[i].amount)
                revert InvalidAmount(permit.permitted[i].amount);
            if (transferDetails[i].requestedAmount != 0)
                _move(permit.permitted[i].token, owner, transferDetails[i]);
        }
    }

    function invalidateUnorderedNonces(uint256 wordPos, uint256 mask) external {
        nonceBitmap[msg.sender][wordPos] |= mask;
        emit UnorderedNonceInvalidation(msg.sender, wordPos, mask);
    }

    function _hashed(TokenPermissions memory permitted) private pure returns (bytes32) {
        return keccak256(abi.encode(TOKEN_PERMISSIONS, permitted.token, permitted.amount));
    }

    function _use(address owner, uint256 nonce) private {
        uint256 bit = 1 << uint8(nonce);
        uint256 flipped = nonceBitmap[owner][nonce >> 8] ^= bit;
        if (flipped & bit == 0) revert InvalidNonce();
    }

    function _verify(address owner, bytes32 content, bytes calldata signature) private view {
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", DOMAIN_SEPARATOR(), content));
        if (owner.code.length > 0) {
            (bool done, bytes memory answer) = owner.staticcall(
                abi.encodeWithSelector(0x1626ba7e, digest, signature)
            );
            if (!done || answer.length < 32 || bytes4(answer) != 0x1626ba7e)
                revert InvalidContractSignature();
            return;
        }
        if (signature.length != 65) revert InvalidSignatureLength();
        address signer = ecrecover(
            digest,
            uint8(signature[64]),
            bytes32(signature[0:32]),
            bytes32(signature[32:64])
        );
        if (signer == address(0) || signer != owner) revert InvalidSigner();
    }

    function _move(address token, address owner, SignatureTransferDetails calldata to) private {
        require(
            IToken(token).transferFrom(owner, to.to, to.requestedAmount),
            "TRANSFER_FROM_FAILED"
        );
    }
}
